"""How good a bundle is on a table of labelled samples: one at a time, as an app asks, with every subset of modalities."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmedge import tasks
from mmedge.contract import Contract, subsets
from mmedge.data.rows import read_rows, target_of
from mmedge.data.store.samples import Samples
from mmedge.errors import MmedgeError, UsageError, did_you_mean
from mmedge.measure.quality import bounds, placed_outputs, quality, rows_of, score
from mmedge.progress import Progress
from mmedge.report.evaluated import EvaluationReport, FigureRecord
from mmedge.runtime.engine import Engine
from mmedge.runtime.rows import Row, lacking, sample_of
from mmedge.tasks.head import Target

# A recipe's column of the target where it names none.
_LABEL, _GROUP = "label", "group"


@dataclass
class _Seen:
    """What was seen of the rows that could be predicted: N of them, M modalities."""

    ids: list[str] = field(default_factory=list)
    present: list[list[bool]] = field(default_factory=list)
    cells: dict[str, list[str | None]] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    # {subset: [outputs of each row, {head: float [W]}, None where the row lacks a part of it]}.
    outputs: dict[tuple[str, ...], list[dict[str, np.ndarray] | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """``columns``: {head: the column that holds its target}, without heads whose rows are pairs and need none; ``group``: that of the independent unit, None for each row alone."""

    columns: Mapping[str, str]
    group: str | None = None
    separator: str = ";"


def evaluation_of(
    contract: Contract, truths: tuple[str, ...], group: str | None, columns: Collection[str]
) -> Evaluation:
    """What to judge by. ``truths``: ``COLUMN`` or ``HEAD=COLUMN``, as typed; ``columns``: the table's. Raises UsageError."""
    heads = list(contract.heads)
    found = {heads[0]: _LABEL} if len(heads) == 1 else {head: head for head in heads}
    pairs = {head for head in heads if tasks.of(contract.heads[head]).AMONG}
    for truth in truths:
        head, _, column = truth.rpartition("=")
        head = head or (heads[0] if len(heads) == 1 else "")
        if head not in found:
            raise UsageError(
                f"--truth {truth}: the bundle has no head {head!r}{did_you_mean(head, heads)}; it has {', '.join(heads)}",
                todo="write --truth HEAD=COLUMN",
            )
        found[head], pairs = column, pairs - {head}
    found = {head: column for head, column in found.items() if head not in pairs}
    for head, column in found.items():
        values = contract.heads[head].values
        if column not in columns and values and set(values) <= set(columns):
            found[head] = "+".join(values)  # several numbers have a column each
        elif column not in columns:
            raise UsageError(
                f"the table has no column {column!r}{did_you_mean(column, columns)} for what {head} should be",
                todo=f"name it: --truth {'' if len(heads) == 1 else f'{head}='}COLUMN; there are {', '.join(list(columns)[:20])}",
            )
    if group is not None and group not in columns:
        raise UsageError(f"the table has no column {group!r}{did_you_mean(group, columns)}", todo="correct --group")
    return Evaluation(found, group or (_GROUP if _GROUP in columns else None))


def evaluate(
    engine: Engine, table: Path, truths: tuple[str, ...], group: str | None, progress: Progress
) -> EvaluationReport:
    """The document of ``mmedge evaluate``: quality with its interval, that of each head and of each subset, and notes.

    Rows that cannot be predicted are counted under ``wrong`` and told in the notes. Raises MmedgeError where nothing can
    be judged.
    """
    total, evaluation, notes = 0, None, []
    for row in read_rows(table):
        if evaluation is None:
            notes += [f"the table has no column of {name}" for name in lacking(engine.contract, row.cells)]
            evaluation = evaluation_of(engine.contract, truths, group, row.cells)
        total += 1
    if evaluation is None:
        raise MmedgeError("the table has no rows", where=str(table), todo="write a row a sample below the header")
    seen, wrong = _Seen(), 0
    for row in read_rows(table):
        try:
            _see(engine, row, table.resolve().parent, evaluation, seen)
        except MmedgeError as error:
            wrong += 1
            progress.say(f"evaluate: {row.where}: {error.what}")
        progress.step("evaluate", row.number, total)
    if wrong:
        notes.append(f"{wrong} of {total} rows could not be predicted and are not judged")
    return _judged(engine.contract, seen, evaluation, table).model_copy(
        update={"rows": total, "wrong": wrong, "notes": notes}
    )


def _see(engine: Engine, row: Row, folder: Path, evaluation: Evaluation, seen: _Seen) -> None:
    """Predict a row by all that it has, and by every subset of that; raises MmedgeError where it cannot be."""
    contract, sample = engine.contract, sample_of(engine.contract, row.cells, folder)
    tensors = engine.preprocess([sample])
    having = tuple(name for name in contract.modalities if name in sample)
    outputs = {chosen: _outputs(engine, tensors, chosen) for chosen in {*_subsets(having), having}}
    seen.ids.append(row.cells.get("id") or str(row.number))
    seen.present.append([name in sample for name in contract.modalities])
    for head, column in evaluation.columns.items():
        seen.cells.setdefault(head, []).append(target_of(row.cells, column, contract.heads[head], folder))
    seen.groups.append((row.cells.get(evaluation.group) if evaluation.group else None) or f"row {row.number}")
    for chosen in _subsets(tuple(contract.modalities)):
        seen.outputs.setdefault(chosen, []).append(outputs.get(chosen))
    seen.outputs.setdefault((), []).append(outputs[having])  # as the row is


def _subsets(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield from (tuple(chosen) for chosen in subsets(names))


def _outputs(engine: Engine, tensors: Mapping[str, np.ndarray], chosen: tuple[str, ...]) -> dict[str, np.ndarray]:
    present = np.array([[name in chosen for name in engine.contract.modalities]])
    inputs = {
        name: x if name in chosen else np.zeros_like(x)
        for name, x in tensors.items()
        if name in engine.contract.modalities
    }
    outputs = engine.run({**inputs, "present": present})
    return {name: outputs[name][0] for name in engine.contract.heads}


def _judged(contract: Contract, seen: _Seen, evaluation: Evaluation, table: Path) -> EvaluationReport:
    """Figures over the rows that were predicted and whose target is known."""
    if not seen.ids:
        raise MmedgeError("no row could be predicted", where=str(table), todo="mmedge predict tells why of each")
    nothing: list[str | None] = [None] * len(seen.ids)
    targets = {
        name: _targets(contract, name, seen.cells.get(name, nothing), evaluation, table) for name in contract.heads
    }
    groups = np.unique(np.array(seen.groups), return_inverse=True)[1].astype(np.int64)
    samples = Samples("table", tuple(seen.ids), {}, np.array(seen.present), targets, groups, contract.heads)
    if not samples.labelled.any():
        columns = ", ".join(evaluation.columns.values())
        raise MmedgeError("no row says what is right", where=f"{table}, column {columns}", todo="fill it in")
    raw = _stacked(contract, seen.outputs[()])
    whole = placed_outputs(contract, raw, raw, targets)
    of_subsets = {}
    for chosen in _subsets(tuple(contract.modalities)):
        rows = np.flatnonzero([given is not None for given in seen.outputs[chosen]] & samples.labelled)
        if len(rows):
            absent = {name: np.zeros_like(x[0]) for name, x in raw.items()}
            outputs = _stacked(contract, [given or absent for given in seen.outputs[chosen]])
            placed = rows_of(placed_outputs(contract, outputs, raw, targets), rows)
            of_subsets["+".join(chosen)] = _figure(contract, placed, samples.taken(rows))
    found = EvaluationReport(
        schema=1,
        table=table.name,
        rows=len(seen.ids),
        wrong=0,
        quality=quality(contract, whole, samples),
        subsets=of_subsets,
        notes=[],
    )
    if len(contract.heads) == 1:
        return found
    of_heads = {
        name: _figure(contract.model_copy(update={"heads": {name: head}}), whole, samples)
        for name, head in contract.heads.items()
        if samples.known(name).any()
    }
    return found.model_copy(update={"heads": of_heads})


def _figure(contract: Contract, outputs: Mapping[str, np.ndarray], samples: Samples) -> FigureRecord:
    """The metric with its interval, over the rows whose target is known."""
    known = samples.known_rows(contract.heads)
    outputs, targets = rows_of(outputs, known), rows_of(samples.targets, known)
    value = score(contract, outputs, targets)
    if np.isnan(value):
        return FigureRecord(n=len(known))
    found = bounds(contract, outputs, targets, samples.groups[known])
    return FigureRecord(value=value, ci95=(found.low, found.high), n=len(known))


def _stacked(contract: Contract, outputs: list[dict[str, np.ndarray] | None]) -> dict[str, np.ndarray]:
    return {name: np.stack([given[name] for given in outputs if given is not None]) for name in contract.heads}


def _targets(contract: Contract, name: str, cells: list[str | None], evaluation: Evaluation, table: Path) -> np.ndarray:
    """A head's targets of the table's cells; raises MmedgeError for a cell that it cannot mean."""
    head = contract.heads[name]
    task, target = tasks.of(head), Target(task=head.task, separator=evaluation.separator)
    where = f"{table}, column {evaluation.columns.get(name, name)}"
    for names in task.named(cells, target):
        for label in sorted((names or frozenset()) - set(head.labels)):
            raise MmedgeError(
                f"the bundle does not know {label!r}{did_you_mean(label, head.labels)}",
                where=where,
                todo="correct it, or empty the cell: the row is then not judged",
            )
    targets = task.targets(cells, head, target)
    unread = np.flatnonzero(~task.known(targets) & np.array([cell is not None for cell in cells]))
    if len(unread):
        raise MmedgeError(
            f"{cells[int(unread[0])]!r} is nothing that {name} can be",
            where=where,
            todo="correct it, or empty the cell: the row is then not judged",
        )
    return targets
