"""A number a sample, in the targets' own unit, judged by R2."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmedge.tasks import alone
from mmedge.tasks.cells import CellFault, Cells, TargetCard, defining_splits
from mmedge.tasks.head import Head, Target
from mmedge.tasks.prediction import Prediction
from mmedge.tasks.scale import Scale

OUTPUT, METRIC = "value", "r2"
LABELS, SEVERAL, EXCLUSIVE, BALANCED, UNIT, CONFIDENCE = False, False, False, False, True, False
ORDERED, AMONG = False, False
FILE_KINDS: tuple[str, ...] = ("values",)
FIGURES: dict[str, Scale] = {"r2": "unexplained", "mae": "error", "rmse": "error"}
grouped, placed = alone.grouped, alone.placed


def width(head: Head) -> int:
    return 1


def named(cells: Cells, target: Target) -> list[frozenset[str] | None]:
    return [None] * len(cells)


def _number(cell: str | None) -> float:
    """NaN where the cell is empty or no finite number."""
    try:
        value = float(cell) if cell is not None else math.nan
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def numbers(cells: Cells) -> np.ndarray:
    """float64 [N]: NaN where a cell is empty or no finite number."""
    return np.array([_number(cell) for cell in cells], np.float64)


def head(defining: Cells, target: Target) -> Head:
    values = numbers(defining)
    values = values[~np.isnan(values)]
    if not len(values):
        return Head(task=target.task)
    return Head(task=target.task, mean=float(values.mean()), std=float(values.std()) or 1.0)


def stand_in() -> Head:
    return Head(task="regression")


def faults(cells: Mapping[str, Cells], target: Target) -> Iterator[CellFault]:
    values = {split: numbers(of_split) for split, of_split in cells.items()}
    wrong = False
    for split, of_split in cells.items():
        for row, (cell, value) in enumerate(zip(of_split, values[split])):
            if cell is not None and math.isnan(value):
                wrong = True
                todo = "correct it, or empty the cell: the sample is then unlabelled"
                yield CellFault("error", "target", f"the target {cell!r} is not a finite number", todo, split, row)
    if wrong:
        return
    defining = np.concatenate([np.empty(0), *(values[split] for split in defining_splits(cells))])
    if len(np.unique(defining[~np.isnan(defining)])) == 1:
        yield CellFault("error", "constant", "the target has one value only", "there is nothing to learn", "train")
    for split in ("validation", "test"):
        found = values[split][~np.isnan(values[split])] if split in values else np.empty(0)
        if len(found) and np.ptp(found) == 0:
            what = f"the targets of the {split} split are all the same: nothing can be judged by them"
            yield CellFault("error", "constant", what, "correct data.split or data.ratios", split)


def targets(cells: Cells, head: Head, target: Target) -> np.ndarray:
    """float32 [N]: NaN where unlabelled."""
    return numbers(cells).astype(np.float32)


def known(targets: np.ndarray) -> np.ndarray:
    return np.asarray(~np.isnan(targets))


def hidden(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    targets = targets.copy()
    targets[rows] = np.nan
    return targets


def strata(cells: Cells, target: Target) -> list[str]:
    return ["" if cell is None or cell == "" else "x" for cell in cells]


def spread(targets: np.ndarray) -> np.ndarray | None:
    return None


def weights(targets: np.ndarray) -> np.ndarray:
    return np.ones(len(targets), np.float32)


def score(output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    spread = float(((targets - targets.mean()) ** 2).sum())
    return float(1 - ((output[:, 0] - targets) ** 2).sum() / spread) if spread else float("nan")


def others(output: np.ndarray, targets: np.ndarray, head: Head) -> dict[str, float]:
    errors = output[:, 0] - targets
    return {"mae": float(np.abs(errors).mean()), "rmse": float(np.sqrt((errors**2).mean()))}


def majority(targets: np.ndarray, head: Head, rows: int) -> np.ndarray:
    """The mean of the known targets."""
    return np.full((rows, 1), np.nanmean(targets) if known(targets).any() else head.mean, np.float32)


def same(expected: np.ndarray, actual: np.ndarray) -> float:
    """All of them: how far two numbers are apart is judged as a difference."""
    return 1.0


def probabilities(output: np.ndarray) -> np.ndarray:
    """None: a number does not tell how sure it is."""
    return np.zeros((len(output), 0))


def chosen(output: np.ndarray) -> np.ndarray:
    return np.zeros(len(output), np.int64)


def predictions(output: np.ndarray, head: Head) -> list[Prediction]:
    return [Prediction(value=float(row[0])) for row in output]


def card(cells: Cells, target: Target) -> TargetCard:
    values = numbers(cells)
    values = values[~np.isnan(values)]
    if not len(values):
        return TargetCard()
    figures = {"min": float(values.min()), "mean": float(f"{values.mean():.4g}"), "max": float(values.max())}
    return TargetCard(target=figures)


def from_file(numbers: np.ndarray, kind: str) -> np.ndarray:
    return numbers


def improbable(numbers: np.ndarray) -> np.ndarray:
    """bool [N]: none of them is said to be a probability."""
    return np.zeros(len(numbers), bool)


def file_labels(labels: Sequence[str]) -> tuple[str, ...]:
    return ()
