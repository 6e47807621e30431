"""Numbers a sample, one or several, each in its own unit, judged by R2: of several by the mean over them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmedge.tasks import alone, unlabelled
from mmedge.tasks.cells import CellFault, Cells, TargetCard, defining_splits
from mmedge.tasks.head import Head, Target
from mmedge.tasks.prediction import Prediction
from mmedge.tasks.scale import Scale

OUTPUT, METRIC = "value", "r2"
LABELS, SEVERAL, EXCLUSIVE, BALANCED, UNIT, CONFIDENCE = False, False, False, False, True, False
ORDERED, AMONG, PLACED, FILES, CODES = False, False, False, False, False
FILE_KINDS: tuple[str, ...] = ("values",)
FIGURES: dict[str, Scale] = {
    "r2": "unexplained",
    "mae": "error",
    "rmse": "error",
    "mse": "error",
    "pearson": "correlation",
    "spearman": "correlation",
}
grouped, placed = alone.grouped, alone.placed
named, spread, weights = unlabelled.named, unlabelled.spread, unlabelled.weights
probabilities, chosen = unlabelled.probabilities, unlabelled.chosen
from_file, improbable, file_labels = unlabelled.from_file, unlabelled.improbable, unlabelled.file_labels


def width(head: Head) -> int:
    return max(1, len(head.values))


def _number(cell: object) -> float:
    """NaN where it is empty or no finite number."""
    try:
        value = float(cell) if isinstance(cell, (str, int, float)) and not isinstance(cell, bool) else math.nan
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _listed(cell: str | None) -> list[object] | None:
    """What a cell holds where it is a JSON list; None for anything else."""
    if cell is None or not cell.startswith("["):
        return None
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _values(cells: Cells, target: Target) -> tuple[str, ...]:
    """The names of the values of a cell: the columns that they were joined from, or numbers from 0; none of a single one."""
    if target.columns:
        return target.columns
    first = next((listed for cell in cells if (listed := _listed(cell)) is not None), None)
    return tuple(map(str, range(len(first)))) if first and len(first) > 1 else ()


def numbers(cells: Cells, count: int = 1) -> np.ndarray:
    """float64 [N, count]: NaN where a value is missing or no finite number, in all of a row whose cell has not so many."""
    found = np.full((len(cells), count), np.nan)
    for row, cell in enumerate(cells):
        listed = _listed(cell) or [cell]
        if len(listed) == count:
            found[row] = [_number(each) for each in listed]
    return found


def head(defining: Cells, target: Target) -> Head:
    names = _values(defining, target)
    values = numbers(defining, max(1, len(names)))
    if np.isnan(values).all(axis=0).any():
        return Head(task=target.task, values=names)
    mean, std = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    std[std == 0] = 1.0
    if not names:
        return Head(task=target.task, mean=float(mean[0]), std=float(std[0]))
    return Head(task=target.task, values=names, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def stand_in() -> Head:
    return Head(task="regression")


def faults(cells: Mapping[str, Cells], target: Target) -> Iterator[CellFault]:
    splits = defining_splits(cells)
    names = _values([cell for split in splits for cell in cells[split]], target)
    count, wrong = max(1, len(names)), False
    for split, of_split in cells.items():
        for row, cell in enumerate(of_split):
            if what := _wrong(cell, count):
                wrong = True
                todo = "correct it, or empty the cell: the sample is then unlabelled"
                yield CellFault("error", "target", what, todo, split, row)
    if wrong:
        return
    values = {split: numbers(of_split, count) for split, of_split in cells.items()}
    defining = np.concatenate([np.empty((0, count)), *(values[split] for split in splits)])
    for value, column in zip(names or ("",), defining.T):
        each = f"the value {value!r} of the target" if value else "the target"
        there = len(np.unique(column[~np.isnan(column)]))
        if there == 0 and value:
            yield CellFault("error", "target", f"{each} is known of no sample", "fill it, or leave it out", splits[0])
        elif there == 1:
            yield CellFault("error", "constant", f"{each} has one value only", "there is nothing to learn", "train")
    for split in ("validation", "test"):
        columns = values[split].T if split in values else np.empty((0, 0))
        found = [column[~np.isnan(column)] for column in columns]
        if any(map(len, found)) and all(np.ptp(column) == 0 for column in found if len(column)):
            what = f"the targets of the {split} split are all the same: nothing can be judged by them"
            yield CellFault("error", "constant", what, "correct data.split or data.ratios", split)


def _wrong(cell: str | None, count: int) -> str | None:
    """What is wrong with a cell that should hold so many numbers."""
    if cell is None:
        return None
    listed = _listed(cell)
    if listed is None:
        return f"the target {cell!r} is not {'a finite number' if count == 1 else f'a list of {count} numbers'}" if (
            count > 1 or math.isnan(_number(cell))
        ) else None  # fmt: skip
    if len(listed) != count:
        return f"the target has {len(listed)} values, and those of other rows have {count}"
    missing = (None, "")
    wrong = next((each for each in listed if each not in missing and math.isnan(_number(each))), None)
    return None if wrong is None else f"{wrong!r} among the target's values is not a finite number"


def targets(cells: Cells, head: Head, target: Target) -> np.ndarray:
    """float32 [N], of several values [N, W]: NaN where unlabelled, or where a single value is missing."""
    found = numbers(cells, width(head)).astype(np.float32)
    return found if head.values else found[:, 0]


def known(targets: np.ndarray) -> np.ndarray:
    """bool [N]: of several values those of which any is known."""
    return np.asarray(~np.isnan(targets).reshape(len(targets), -1).all(axis=1))


def hidden(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    targets = targets.copy()
    targets[rows] = np.nan
    return targets


def strata(cells: Cells, target: Target) -> list[str]:
    return ["" if cell is None or cell == "" else "x" for cell in cells]


def _each(output: np.ndarray, targets: np.ndarray, head: Head) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, predicted, true), float [n], of each value, over the rows that know it."""
    for name, predicted, true in zip(head.values or ("",), output.T, targets.reshape(len(targets), -1).T):
        there = ~np.isnan(true)
        if there.any():
            yield (name, predicted[there], true[there]) if not there.all() else (name, predicted, true)


def _r2(predicted: np.ndarray, true: np.ndarray) -> float:
    spread = float(((true - true.mean()) ** 2).sum())
    return float(1 - ((predicted - true) ** 2).sum() / spread) if spread else math.nan


def _correlation(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson's; NaN where one of them does not vary."""
    first, second = predicted - predicted.mean(dtype=np.float64), true - true.mean(dtype=np.float64)
    lengths = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float(np.clip((first * second).sum() / lengths, -1, 1)) if lengths > 0 else math.nan


def _figures(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """All of one value. Spearman's correlation is Pearson's of the ranks, of equal ones the mean rank."""
    from scipy.stats import rankdata

    errors = predicted - true
    return {
        "r2": _r2(predicted, true),
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt((errors**2).mean())),
        "mse": float((errors**2).mean()),
        "pearson": _correlation(predicted, true),
        "spearman": _correlation(rankdata(predicted), rankdata(true)),
    }


def _mean(values: Sequence[float]) -> float:
    """The mean of those that are defined."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def score(output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    """R2; of several values the uniform mean, as scikit-learn's ``r2_score`` takes it."""
    return _mean([_r2(predicted, true) for _, predicted, true in _each(output, targets, head)])


def others(output: np.ndarray, targets: np.ndarray, head: Head) -> dict[str, float]:
    """``mae``, ``rmse``, ``pearson``, ``spearman``; of several values the mean over them, and ``r2`` and ``mae`` of each under ``.NAME``."""
    each = {name: _figures(predicted, true) for name, predicted, true in _each(output, targets, head)}
    told = ("mae", "rmse", "pearson", "spearman")
    found = {figure: _mean([of[figure] for of in each.values()]) for figure in told}
    if head.values:
        found |= {f"{figure}.{name}": of[figure] for figure in ("r2", "mae") for name, of in each.items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def further(name: str, output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    """Any of them, of one value or the mean over all."""
    figure, _, value = name.partition(".")
    each = {of: _figures(*pair) for of, *pair in _each(output, targets, head) if value in ("", of)}
    return _mean([of[figure] for of in each.values() if figure in of])


def parts(head: Head) -> tuple[str, ...]:
    return head.values


def majority(targets: np.ndarray, head: Head, rows: int) -> np.ndarray:
    """The mean of the known targets, value by value."""
    columns = targets.reshape(len(targets), -1)
    unknown = np.isnan(columns).all(axis=0) if len(columns) else np.ones(width(head), bool)
    means = np.where(unknown, head.mean, np.nanmean(np.where(unknown, 0.0, columns), axis=0) if len(columns) else 0.0)
    return np.tile(means.astype(np.float32), (rows, 1))


def errors(output: np.ndarray, targets: np.ndarray, head: Head) -> np.ndarray:
    """float [N]: the mean distance of a row's values, [N, W] or [N], in the targets' deviations; over those that are known."""
    apart = np.abs(output - targets.reshape(len(targets), -1)) / np.asarray(head.std)
    return np.asarray(np.nanmean(apart, axis=1))


def same(expected: np.ndarray, actual: np.ndarray) -> float:
    """All of them: how far two numbers are apart is judged as a difference."""
    return 1.0


def predictions(output: np.ndarray, head: Head) -> list[Prediction]:
    if not head.values:
        return [Prediction(value=float(row[0])) for row in output]
    return [Prediction(values=dict(zip(head.values, row.tolist()))) for row in output]


def card(cells: Cells, target: Target) -> TargetCard:
    names = _values(cells, target)
    values = numbers(cells, max(1, len(names)))
    found: dict[str, float] = {}
    for name, column in zip(names or ("",), values.T):
        there = column[~np.isnan(column)]
        if len(there):
            before = f"{name}." if name else ""
            mean = float(f"{there.mean():.4g}")
            found |= {f"{before}min": float(there.min()), f"{before}mean": mean, f"{before}max": float(there.max())}
    return TargetCard(target=found or None)
