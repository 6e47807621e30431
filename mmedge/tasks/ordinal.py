"""One of several grades in order: a logit for "above this grade" a threshold, judged by accuracy, rank error and kappa.

Output k of grades - 1 is the logit of the probability that the grade lies above grade k (McCullagh 1980, "Regression
models for ordinal data"; as a network's outputs Niu et al. 2016, "Ordinal regression with multiple output CNN").
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmedge.errors import did_you_mean
from mmedge.tasks import alone, classification, labelwise, multilabel
from mmedge.tasks.cells import CellFault, Cells, TargetCard, defining_splits, label_faults
from mmedge.tasks.head import Head, Target
from mmedge.tasks.prediction import Prediction
from mmedge.tasks.scale import Scale

OUTPUT, METRIC = "logits", "accuracy"
LABELS, SEVERAL, EXCLUSIVE, BALANCED, UNIT, CONFIDENCE = True, False, False, True, False, True
ORDERED, AMONG, PLACED, FILES, CODES = True, False, False, False, False
FILE_KINDS: tuple[str, ...] = ("logits",)
FIGURES: dict[str, Scale] = {
    "accuracy": "share",
    "mae_ranks": "error",
    "kappa": "correlation",
    **labelwise.OF_ONE,
    **labelwise.FIGURES,
}

named, known, hidden, strata = classification.named, classification.known, classification.hidden, classification.strata
spread, weights, targets = classification.spread, classification.weights, classification.targets
from_file, improbable = multilabel.from_file, multilabel.improbable
grouped, placed, errors = alone.grouped, alone.placed, alone.errors


def width(head: Head) -> int:
    return len(head.labels) - 1


def _as_number(label: str) -> float:
    """NaN where a grade is no number."""
    try:
        return float(label)
    except ValueError:
        return math.nan


def head(defining: Cells, target: Target) -> Head:
    if target.order:
        return Head(task=target.task, labels=target.order)
    return Head(task=target.task, labels=tuple(sorted({cell for cell in defining if cell is not None}, key=_as_number)))


def stand_in() -> Head:
    return Head(task="ordinal", labels=("first", "second", "third"))


def faults(cells: Mapping[str, Cells], target: Target) -> Iterator[CellFault]:
    defining = defining_splits(cells)
    words = sorted({c for split in defining for c in cells[split] if c is not None and math.isnan(_as_number(c))})
    if words and not target.order:
        what = f"grades that are words have no order of their own: {', '.join(words[:8])}"
        yield CellFault("error", "no-order", what, "list them under 'order', lowest first", defining[0])
        return
    for split, of_split in cells.items() if target.order else ():
        for label in sorted({cell for cell in of_split if cell is not None} - set(target.order)):
            what = f"the grade {label!r} is not in 'order'{did_you_mean(label, target.order)}"
            todo = f"'order' lists {', '.join(target.order)}: add it, or correct the cell"
            yield CellFault("error", "unknown-grade", what, todo, split, list(of_split).index(label))
    found = {split: named(of_split, target) for split, of_split in cells.items()}
    # A grade that 'order' lists needs no sample in the training split.
    for cell_fault in label_faults(found, defining, needs=2):
        if cell_fault.kind != "unseen-label" or not target.order:
            yield cell_fault


def ranks(output: np.ndarray) -> np.ndarray:
    """int64 [N]: the grade's number, from 0: how many thresholds are more likely passed than not."""
    return (output > 0).sum(axis=1)


def score(output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    return float((ranks(output) == targets).mean())


def others(output: np.ndarray, targets: np.ndarray, head: Head) -> dict[str, float]:
    """``mae_ranks``: the mean error in grades; ``kappa``: Cohen's, with quadratic weights (Cohen 1968).

    Kappa is left out where it is not defined: one grade alone, and always found.
    """
    found = ranks(output)
    figures = {"mae_ranks": float(np.abs(found - targets).mean())}
    if len(np.unique(np.concatenate([found, targets]))) > 1:
        figures["kappa"] = _kappa(targets, found)
    return figures


def further(name: str, output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    """See ``labelwise``: grades as labels."""
    grades = np.arange(len(head.labels))
    has, given = targets[:, None] == grades, ranks(output)[:, None] == grades
    return labelwise.figure(name, has, given, probabilities(output), head.labels)


parts = classification.parts


def _kappa(first: np.ndarray, second: np.ndarray) -> float:
    """1 less the squared distance over that of pairs drawn by chance."""
    by_chance = first.var() + second.var() + (first.mean() - second.mean()) ** 2
    return float(1 - ((first - second) ** 2).mean() / by_chance)


def majority(targets: np.ndarray, head: Head, rows: int) -> np.ndarray:
    """The most frequent grade: the thresholds below it are passed."""
    grade = int(np.bincount(targets[targets >= 0], minlength=len(head.labels)).argmax())
    return np.tile(np.where(np.arange(width(head)) < grade, 1.0, -1.0).astype(np.float32), (rows, 1))


def same(expected: np.ndarray, actual: np.ndarray) -> float:
    return float((ranks(expected) == ranks(actual)).mean())


def probabilities(output: np.ndarray) -> np.ndarray:
    """float [N, grades], rows adding up to 1: differences of the probabilities of passing each threshold.

    Thresholds of a network's outputs may cross; a later one is then passed no more often than those before it.
    """
    passed = np.minimum.accumulate(0.5 * (1 + np.tanh(output / 2)), axis=1)
    edges = np.concatenate([np.ones((len(output), 1)), passed, np.zeros((len(output), 1))], axis=1)
    return edges[:, :-1] - edges[:, 1:]


chosen = ranks


def predictions(output: np.ndarray, head: Head) -> list[Prediction]:
    found = zip(ranks(output).tolist(), probabilities(output.astype(np.float64) / head.temperature).tolist())
    return [Prediction(head.labels[rank], dict(zip(head.labels, row)), rank=rank) for rank, row in found]


def card(cells: Cells, target: Target) -> TargetCard:
    counts = Counter(cell for cell in cells if cell is not None)
    return TargetCard(classes=dict(sorted(counts.items(), key=lambda item: _place(item[0], target))))


def _place(label: str, target: Target) -> float:
    return target.order.index(label) if label in target.order else _as_number(label)


def file_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """None: the columns are thresholds, one fewer than grades."""
    return ()
