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
from mmedge.data.rows import read_rows
from mmedge.data.store.samples import Samples
from mmedge.errors import MissingDependency, MmedgeError, UsageError
from mmedge.measure.contribution import MOST, coalition_outputs, contributions, shapley, values_of
from mmedge.measure.quality import Predict, Run, computed_once, module_run, predict_graph
from mmedge.measure.review import named, short
from mmedge.progress import Progress
from mmedge.recipe.code import load_attribute, refuse_foreign
from mmedge.report.explained import AttentionRecord, EmbeddingRecord, ExplanationRecord, SaliencyRecord, SampleRecord
from mmedge.runtime.rows import sample_of
from mmedge.tasks.head import Target

if TYPE_CHECKING:
    from torch import nn

_GRAPH = "model.onnx"
# Of the layout of features.
_SEED, _THREADS = 0, 2


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
    saliency, attention, embeddings = [], [], []
    if model.module is None:
        notes.append(
            "no integrated gradients and no features: an engine has no gradients; explain the artifact of teacher, distill or prune"
        )
    else:
        progress.say("explain: evidence in pictures and spectrograms")
        saliency = _saliency(model, model.module, samples, wanted, notes)
        attention = _attention(model.module, samples, wanted)
        progress.say("explain: features before and after fusion")
        embeddings = _embeddings(model.module, samples, predict, model, notes)
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
        saliency=saliency,
        attention=attention,
        embeddings=embeddings,
        notes=notes,
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
    for place in np.unique(np.linspace(0, len(every) - 1, min(wanted.limit, len(every))).round().astype(int)):
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
        found = [row.get(column) for row in cells]
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
            targets[name] = task.chosen(outputs[name]) if task.LABELS else outputs[name][:, 0]
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
                    given=_given(model, name, outputs[all_of][name][row]),
                    score=float(values[all_of][at]),
                    shapley=dict(zip(names, parts[at].tolist())),
                    ablation={m: float(values[all_of][at] - values[all_of - {k}][at]) for k, m in enumerate(names)},
                )
            )
    return records


def _given(model: _Model, name: str, output: np.ndarray) -> str:
    head = model.contract.heads[name]
    (prediction,) = tasks.of(head).predictions(output[None], head)
    if prediction.label is not None:
        return prediction.label
    return f"{prediction.value:.4g}" if prediction.labels is None else ", ".join(prediction.labels) or "none"


def _saliency(
    model: _Model, module: nn.Module, samples: Samples, wanted: Wanted, notes: list[str]
) -> list[SaliencyRecord]:
    from mmedge.measure.saliency import integrated_gradients, overlay

    found = []
    ((name, head),) = list(model.contract.heads.items())[:1]
    if len(model.contract.heads) > 1:
        notes.append(f"evidence is of the first head, {name}")
    for row in _spread(len(samples), wanted.pictures):
        inputs = {key: np.array(x[row : row + 1]) for key, x in samples.inputs.items()}
        present = samples.present[row : row + 1]
        output = model.run({**inputs, "present": present})[name]
        column = int(output[0].argmax()) if tasks.of(head).LABELS else 0
        try:
            evidence, gap = integrated_gradients(module, model.contract, inputs, present, name, column)
        except MissingDependency as error:
            notes.append(f"{error.what}: {error.todo}")
            return []
        drawn = {key: overlay(model.contract.modalities[key], inputs[key][0], x[0]) for key, x in evidence.items()}
        sums = {key: float(np.abs(x).sum()) for key, x in evidence.items()}
        total = sum(sums.values()) or 1.0
        found.append(
            SaliencyRecord(
                row=int(samples.ids[row]),
                head=name,
                given=_given(model, name, output[0]),
                pictures={key: uri for key, uri in drawn.items() if uri},
                shares={key: value / total for key, value in sums.items()},
                gap=gap,
            )
        )
    return found


def _spread(count: int, most: int) -> list[int]:
    """At most so many rows, from all over."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)).tolist() if most else []


def _attention(module: nn.Module, samples: Samples, wanted: Wanted) -> list[AttentionRecord]:
    from mmedge.measure.attending import attention_maps, map_picture

    rows = _spread(len(samples), wanted.pictures)
    if not rows:
        return []
    chosen = samples.taken(np.array(rows))
    maps = attention_maps(module, {name: np.array(x) for name, x in chosen.inputs.items()}, chosen.present)
    return [
        AttentionRecord(
            row=int(sample), layer=layer, queries=x.shape[1], keys=x.shape[2], picture=map_picture(x[number])
        )
        for layer, x in maps.items()
        for number, sample in enumerate(chosen.ids)
    ]


def _embeddings(
    module: nn.Module, samples: Samples, predict: Predict, model: _Model, notes: list[str]
) -> list[EmbeddingRecord]:
    from mmedge.measure.embedding import LEAST, features, laid_out

    if len(samples) < LEAST:
        notes.append(f"no features: {len(samples)} rows; {LEAST} have neighbours to speak of")
        return []
    places = features(module, {name: np.array(x) for name, x in samples.inputs.items()}, samples.present)
    if not places:
        notes.append("no features: of a network of your own it is not known where modalities meet")
    name, head = next(iter(model.contract.heads.items()))
    known = samples.known(name)
    labels: Callable[[int], str] = lambda row: named(head, samples.targets[name][row]) if known[row] else "?"  # noqa: E731
    found = []
    for place, rows in places.items():
        at = (
            samples.present[:, list(samples.inputs).index(place)]
            if place in samples.inputs
            else np.ones(len(rows), bool)
        )
        if at.sum() >= LEAST:
            points = laid_out(rows[at], _SEED)
            names = [labels(int(row)) for row in np.flatnonzero(at)]
            found.append(EmbeddingRecord(place=place, x=short(points[:, 0]), y=short(points[:, 1]), labels=names))
    return found
