"""Explains what a model does on a table of samples: modalities, places in pictures and spectrograms, features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmedge import __version__, artifact, preprocess, tasks
from mmedge import recipe as recipes
from mmedge.artifact import Artifact, contract_of
from mmedge.backends import GRAPH_BACKEND, opened
from mmedge.contract import Contract
from mmedge.data.outputs import OUTPUTS_FILE
from mmedge.data.rows import read_rows, target_of
from mmedge.data.store.samples import Samples
from mmedge.errors import MmedgeError, UsageError
from mmedge.measure.contribution import MOST, coalition_outputs, contributions, shapley, values_of
from mmedge.measure.inside import Seen, inside, spread
from mmedge.measure.quality import Predict, Run, computed_once, module_run, predict_graph
from mmedge.measure.review import given_words, named
from mmedge.progress import Progress
from mmedge.recipe.code import load_attribute, refuse_foreign
from mmedge.report.explained import ExplanationRecord, InsideRecord, SampleRecord
from mmedge.runtime.rows import sample_of
from mmedge.tasks.head import Target

if TYPE_CHECKING:
    from torch import nn

_GRAPH = "model.onnx"
_THREADS = 2


@dataclass(frozen=True)
class Wanted:
    """``limit``: rows of the table that are taken; ``pictures``: of how many of them evidence is drawn."""

    table: Path
    limit: int = 200
    pictures: int = 6
    truth: str | None = None


@dataclass(frozen=True)
class _Model:
    """``module``: the network itself, where the artifact holds it."""

    artifact: Artifact
    contract: Contract
    run: Run
    module: nn.Module | None


def explain(path: Path, wanted: Wanted, progress: Progress) -> ExplanationRecord:
    """All that can be explained of an artifact, or a bundle; ``notes`` say what cannot.

    Raises UsageError of an artifact that is a file of outputs, and where the table has nothing for the model.
    """
    model, notes = _model(path), []
    if not all(map(tasks.row_by_row, model.contract.heads.values())):
        raise UsageError(
            "texts and vectors say nothing by themselves, so that no contribution to one can be told",
            where=str(path),
            todo="judge each subset of the modalities by the report, or with mmedge evaluate",
        )
    samples, of_labels, ids = _samples(model, wanted)
    predict = computed_once(lambda present: predict_graph(model.run, model.contract, samples, present))
    if not of_labels:
        samples = _with_own_targets(model, samples, predict)
    rows = np.flatnonzero(samples.present.all(axis=1) & samples.labelled)
    if len(rows) < len(samples):
        notes.append(
            f"{len(samples) - len(rows)} of {len(samples)} rows lack a modality or a target: no contributions of them"
        )
    if not 1 < len(model.contract.modalities) <= MOST:
        notes.append(f"no contributions: they are of 2 to {MOST} modalities")
    whole = samples.taken(rows)
    progress.say("explain: every subset of the modalities")
    of_whole = computed_once(lambda present: predict_graph(model.run, model.contract, whole, present))
    found = contributions(model.artifact.stage, whole, of_whole)
    each = _each(model, whole, of_whole, rows, ids) if found else []
    seen = InsideRecord(saliency=[], attention=[], embeddings=[], notes=[])
    if model.module is None:
        notes.append(
            "no evidence and no features: an engine has no gradients; explain the artifact of teacher, distill or prune"
        )
    else:
        progress.say("explain: evidence, attention and features")
        row_of: Callable[[int], tuple[int, str | None]] = lambda row: (int(samples.ids[row]), ids[row])  # noqa: E731
        with_all = Seen(model.module, model.contract, samples, predict(samples.present), row_of)
        seen = inside(with_all, wanted.pictures)
    return ExplanationRecord(
        schema=1,
        mmedge=__version__,
        artifact=path.name,
        sha256=model.artifact.sha256,
        table=wanted.table.name,
        samples=len(samples),
        targets="labels" if of_labels else "outputs",
        contributions=found,
        each=each,
        **{**dict(seen), "notes": [*notes, *seen.notes]},
    )


def _model(path: Path) -> _Model:
    found = artifact.read(path)
    if found.file(OUTPUTS_FILE).is_file():
        raise UsageError(
            "the artifact is a file of outputs: there is no network in it to explain",
            where=str(path),
            todo="explain what was distilled from it, as in mmedge explain RUN/distill",
        )
    contract = contract_of(found)
    if "model" in found.meta and found.file(artifact.WEIGHTS).is_file():
        from mmedge.models import load

        section = recipes.Model.model_validate(found.meta["model"])
        factory = None
        if section.factory:
            refuse_foreign([section.factory], str(path))
            _, folder = recipes.recall(found.meta.get("recipe", {}), path.resolve().parent / ".work")
            factory = load_attribute(section.factory, folder)
        module = load.rebuild(found, factory)
        return _Model(found, contract, module_run(module), module)
    if not found.file(_GRAPH).is_file():
        raise UsageError("the artifact holds neither a network nor a graph", where=str(path))
    return _Model(found, contract, opened(found.file(_GRAPH), GRAPH_BACKEND, threads=_THREADS), None)


def _samples(model: _Model, wanted: Wanted) -> tuple[Samples, bool, list[str | None]]:
    """(rows of the table, whether they have labels, their ids)."""
    contract, folder = model.contract, wanted.table.resolve().parent
    given: list[tuple[int, dict[str, object]]] = []
    cells = []
    every = list(read_rows(wanted.table))  # tables stand in the order of their classes: taken from all over
    for place in spread(len(every), wanted.limit):
        row = every[place]
        sample = sample_of(contract, row.cells, folder)
        if sample:
            given.append((row.number, sample))
            cells.append(row.cells)
    if not given:
        raise MmedgeError(
            "no row of the table has any of the model's modalities",
            where=str(wanted.table),
            todo=f"name its columns {', '.join(contract.modalities)}, or as the recipe did",
        )
    present = np.array([[name in sample for name in contract.modalities] for _, sample in given])
    inputs = {}
    for number, (name, spec) in enumerate(contract.modalities.items()):
        rows = [
            preprocess.tensor(spec, sample[name], name) if name in sample else np.zeros(spec.shape, spec.dtype)
            for _, sample in given
        ]
        inputs[name] = preprocess.trimmed(spec, np.stack(rows), present[:, number])
    targets, of_labels = {}, True
    for name, head in contract.heads.items():
        column = wanted.truth or ("label" if len(contract.heads) == 1 else name)
        found = [target_of(row, column, head, folder) for row in cells]
        if wanted.truth and column not in cells[0]:
            raise UsageError(f"the table has no column {column!r}", where=str(wanted.table), todo="correct --truth")
        of_labels = of_labels and any(cell is not None for cell in found)
        targets[name] = tasks.of(head).targets(found, head, Target(task=head.task))
    ids = tuple(str(number) for number, _ in given)
    groups = np.unique(
        [row.get("group") or f"row {number}" for row, (number, _) in zip(cells, given)], return_inverse=True
    )[1]
    samples = Samples("table", ids, inputs, present, targets, groups.astype(np.int64), contract.heads)
    return samples, of_labels, [row.get("id") for row in cells]


def _with_own_targets(model: _Model, samples: Samples, predict: Predict) -> Samples:
    """With what the model itself gives in place of labels."""
    outputs, targets = predict(samples.present), {}
    for name, head in model.contract.heads.items():
        task = tasks.of(head)
        if task.SEVERAL:
            targets[name] = (task.probabilities(outputs[name]) > 0.5).astype(np.float32)
        else:
            targets[name] = task.chosen(outputs[name]) if task.LABELS else outputs[name]
    return Samples("table", samples.ids, samples.inputs, samples.present, targets, samples.groups, samples.heads)


def _each(
    model: _Model, whole: Samples, predict: Predict, rows: np.ndarray, ids: list[str | None]
) -> list[SampleRecord]:
    outputs, names, records = coalition_outputs(whole, predict), list(whole.inputs), []
    all_of = frozenset(range(len(names)))
    for name, head in model.contract.heads.items():
        known = np.flatnonzero(whole.known(name))
        if not len(known):
            continue
        targets = whole.targets[name][known]
        values = values_of(head, name, outputs, targets, known)
        parts = shapley(values, len(names))
        for at, row in enumerate(known):
            records.append(
                SampleRecord(
                    row=int(whole.ids[row]),
                    id=ids[rows[row]],
                    head=name,
                    target=named(head, targets[at]),
                    given=given_words(head, outputs[all_of][name][row]),
                    score=float(values[all_of][at]),
                    shapley=dict(zip(names, parts[at].tolist())),
                    ablation={m: float(values[all_of][at] - values[all_of - {k}][at]) for k, m in enumerate(names)},
                )
            )
    return records
