"""Engines of a network without any data: each is compared with the network on generated inputs, and nothing is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mmedge import artifact as artifacts
from mmedge import bundle as bundles
from mmedge import tasks
from mmedge.artifact import Artifact, hash_json
from mmedge.backends import GRAPH_BACKEND
from mmedge.contract import Contract
from mmedge.data.manifest.splits import SPLITS
from mmedge.data.store.folder import held
from mmedge.data.store.samples import Dataset, Samples
from mmedge.pipeline.fold import make
from mmedge.pipeline.keys import key_of
from mmedge.pipeline.stages import steps
from mmedge.progress import Progress
from mmedge.recipe import Recipe, remember
from mmedge.training.context import Context

# Inputs that engines are compared on.
_COMPARED = 64
SOURCE = "generated inputs"
NOT_JUDGED = "not judged"


def export_unmeasured(recipe: Recipe, out: Path, *, code: Path, progress: Progress) -> Artifact:
    """Run the stages of a network that has learnt already up to its engines, and write ``out/bundle``; returns that.

    The recipe's modalities and classes are the contract. Raises MismatchError where an engine differs from the network
    on standard normal inputs, MissingDependency for a backend that cannot be built here.
    """
    every = [step for step in steps(recipe) if step.ends or step.row.role == "teacher"]
    for step in every:
        step.row.require(step.part)
    with held(out):
        remember(recipe, code, out / ".work")
        context = Context(recipe, _generated(recipe, out), out, code, progress)
        parent: Artifact | None = None
        engines: dict[str, Artifact] = {}
        for step in every:
            if not (context.out / step.name / artifacts.MANIFEST).is_file():
                step.row.tries(context)
            key = key_of(step, parent, parent, context)
            found = artifacts.unchanged(out / step.name, key, progress.say)
            if found is None:
                at = replace(context, stage=step.name, part=step.part, key=key, teacher=parent)
                found = make(step.row.run, parent, step.config, at)
            if step.ends:
                engines[step.part] = found
            else:
                parent = found
        _write(engines, context)
    return artifacts.read(out / "bundle")


def _generated(recipe: Recipe, out: Path) -> Dataset:
    """A dataset of inputs as ``trace.generated`` makes them, without any target."""
    from mmedge.graph.trace import generated

    heads = {name: tasks.of(target).head((), target) for name, target in recipe.data.heads.items()}
    contract = Contract(modalities=dict(recipe.data.modalities), heads=heads)
    inputs = {name: x.numpy() for name, x in generated(contract, _COMPARED, recipe.seed).items()}
    present = inputs.pop("present")
    cells: list[str | None] = [None] * _COMPARED
    targets = {name: tasks.of(head).targets(cells, head, recipe.data.heads[name]) for name, head in heads.items()}
    ids = tuple(f"generated-{number}" for number in range(_COMPARED))
    train, validation, test = (
        Samples(split, ids, inputs, present, targets, np.arange(_COMPARED), heads) for split in SPLITS
    )
    digest = hash_json([contract.model_dump(mode="json", by_alias=True), recipe.seed])
    return Dataset(contract, train, validation, test, digest, SOURCE, out)


def _write(engines: dict[str, Artifact], context: Context) -> None:
    """The bundle, whose figures are those alone that need no data."""
    from mmedge.stages import export

    without_data = ("params", "macs", "latency", "notes")
    first = engines[GRAPH_BACKEND]
    contents = bundles.Contents(
        name=context.recipe.name,
        **export.shipped(first),
        targets={name: export.entry(made) for name, made in engines.items()},
        figures={
            name: {key: made.meta[key] for key in without_data if key in made.meta} for name, made in engines.items()
        },
        verdict=NOT_JUDGED,
        data=SOURCE,
    )
    files = {name: made.file(file) for made in engines.values() for file, name in export.files(made)}
    key = hash_json([made.sha256 for made in engines.values()])
    bundles.write(context.out / "bundle", contents, files, key=key, parent=first.sha256)
