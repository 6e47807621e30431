"""``mmedge quantize``: the stage of a recipe, or an ONNX file of the user's own with data for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mmedge.cli.common import framed, print_json, progress
from mmedge.cli.models import (
    ModelArguments,
    folder_of,
    is_model,
    model_options,
    refuse_for_models,
    refuse_options,
    refuse_unheeded,
    run_model,
)
from mmedge.cli.stages import RunOptions, run_options, run_stage
from mmedge.errors import UsageError

if TYPE_CHECKING:
    from mmedge.api import QuantizedFile

# Options of an ONNX file -> the recipe's key that says the same, None where a recipe has none.
_OF_A_FILE = {
    "labels": None,
    "candidates": "quantize.candidates",
    "max_drop": "quantize.max_drop",
    "require": "quantize.require",
    "max_latency_ratio": "gates.quantize.latency_ratio_to_parent",
    "judge": None,
    "output": None,
    "ignore": "quantize.ignore",
    "calibration": "quantize.calibration",
    "threads": "measure.threads",
    "policy": "gates.policy",
    "prefer": "prefer",
}


@click.command(
    help="Make candidate precisions, judge and time them, keep the best."
    "\n\nRECIPE is a recipe file, or the artifact of an earlier stage, whose recipe is then used; or module:factory"
    " with --weights and --data, what mmedge prune takes too; or an ONNX file of your own: then --data gives what it"
    " takes, as an .npz with an array an input, a folder of .npz or .npy files, a .csv of .npy paths,"
    " or module:build. Half of it calibrates, the other half judges: by labels where there are any, else by FP32's outputs."
    "\n\n\b\nExamples:\n  mmedge quantize recipes/avdigits.yaml --out runs/demo\n  mmedge quantize model.onnx --data calibration.npz --labels labels.npy --out quantized"
)
@run_options
@model_options
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Class numbers, .npy, .npz or .csv, where DATA has none."
)
@click.option("--candidates", help="Precisions to try, with commas.  [default: fp32,fp16,int8]")
@click.option("--max-drop", type=click.FloatRange(0), default=0.01, show_default=True, help="Accuracy budget.")
@click.option(
    "--require",
    type=click.Choice(["fp16", "int8"]),
    help="The precision the result must have; exit 3 if the budget does not allow it.",
)
@click.option("--max-latency-ratio", type=click.FloatRange(0), help="Of the result to FP32; exit 4 if it is slower.")
@click.option(
    "--judge",
    type=click.Choice(["accuracy", "agreement", "difference"]),
    help="What the budget is of.  [default: accuracy with labels, else agreement of class scores, else difference]",
)
@click.option("--output", help="The output with the class scores.  [default: the first]")
@click.option("--ignore", multiple=True, metavar="LAYER", help="A layer that stays in float. Repeatable.")
@click.option(
    "--calibration", type=click.IntRange(1), help="Calls to calibrate on.  [default: until ranges come to rest]"
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--policy",
    type=click.Choice(["strict", "point"]),
    default="strict",
    show_default=True,
    help="strict: a loss must be proved to be inside the budget; point: as measured, by which luck passes too.",
)
@click.option(
    "--prefer",
    type=click.Choice(["latency", "size", "energy", "accuracy"]),
    default="latency",
    show_default=True,
    help="What is best among candidates inside the budget.",
)
@framed
def quantize(options: RunOptions, as_json: bool, **of_a_file: Any) -> int:
    model = options.recipe
    if model.suffix.lower() != ".onnx":
        _refuse_options_of_a_file(model)
        if is_model(model):
            from mmedge.api import quantize as of_module

            refuse_for_models(options)
            given = ModelArguments(str(model), of_a_file, options.overrides)
            return run_model("quantize", given, options.out or folder_of(model, "quantized"), as_json, of_module)
        refuse_options(model)
        return run_stage(options, "quantize", as_json)
    refuse_unheeded(model, ("weights", "target", "classes", "task"))
    if of_a_file["data"] is None:
        raise UsageError(
            "an ONNX file is quantized with --data",
            where=str(model),
            todo="give arrays of what the model takes: see mmedge quantize --help; int8-weights, int4-weights and int8-dynamic calibrate"
            " nothing, so that a few calls to judge by are enough for --candidates fp32,int8-weights,int8-dynamic",
        )
    if options.start or options.overrides or options.devices > 1:
        raise UsageError("--from, --set and --devices belong to a recipe", where=str(model))
    made = _quantized(model, options.out or folder_of(model, "quantized"), of_a_file)
    if as_json:
        print_json(made.figures.record())
    return made.exit_code


def _quantized(model: Path, out: Path, given: Mapping[str, Any]) -> QuantizedFile:
    """An ONNX file that was quantized as the options say, and its table printed."""
    from mmedge.api.files import quantized
    from mmedge.report.standalone import print_quantized

    settings = {name: given[name] for name in _OF_A_FILE}
    if given["candidates"] is not None:
        settings["candidates"] = tuple(given["candidates"].split(","))
    with progress() as shown:
        try:
            made = quantized(model, given["data"], out=out, seed=given["seed"], progress=shown, settings=settings)
        except UsageError as error:
            key = error.what.partition(":")[0]
            raise (
                UsageError(f"--{key.replace('_', '-')}{error.what[len(key) :]}") if key in _OF_A_FILE else error
            ) from None
    print_quantized(made.figures)
    click.echo(f"written: {made.onnx}, {out / 'report.json'}, {out / 'report.html'}", err=True)
    return made


def _refuse_options_of_a_file(recipe: Path) -> None:
    """Raise UsageError for what was typed and a recipe would not heed."""
    context = click.get_current_context()
    for name, key in _OF_A_FILE.items():
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise UsageError(
                f"--{name.replace('_', '-')} belongs to an ONNX file, and this is none",
                where=str(recipe),
                todo=f"say it as --set {key}=…" if key else "leave it out: the recipe names its data and targets",
            )
