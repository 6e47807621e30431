"""``mmedge prune``: the stage of a recipe, or a trained network of the user's own with its data."""

from __future__ import annotations

from typing import Any

import click

from mmedge.cli.common import framed
from mmedge.cli.models import (
    ModelArguments,
    folder_of,
    is_model,
    model_options,
    refuse_for_models,
    refuse_options,
    run_model,
)
from mmedge.cli.stages import RunOptions, run_options, run_stage


@click.command(
    help="Prune the student and recover it with the teacher."
    "\n\nRECIPE is a recipe file, or the artifact of an earlier stage, whose recipe is then used; or a trained network of your"
    " own, as module:factory with --weights and --data: an .npz, a manifest, a recipe or module:build with its samples. Keys of"
    " the section are set by --set prune.KEY=VALUE."
    "\n\n\b\nExamples:\n  mmedge prune recipes/avdigits.yaml --out runs/demo\n  mmedge prune my_net:build --weights net.safetensors --data samples.npz --set prune.macs=0.5"
)
@run_options
@model_options
@framed
def prune(options: RunOptions, as_json: bool, **of_a_model: Any) -> int:
    if is_model(options.recipe):
        from mmedge.api import prune as of_module

        refuse_for_models(options)
        given = ModelArguments(str(options.recipe), of_a_model, options.overrides)
        return run_model("prune", given, options.out or folder_of(options.recipe, "pruned"), as_json, of_module)
    refuse_options(options.recipe)
    return run_stage(options, "prune", as_json)
