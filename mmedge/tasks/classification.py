"""One of several classes a sample: logits of a softmax, judged by accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmedge.tasks import alone, labelwise
from mmedge.tasks.cells import CellFault, Cells, TargetCard, defining_splits, label_faults
from mmedge.tasks.head import Head, Target
from mmedge.tasks.prediction import Prediction
from mmedge.tasks.scale import Scale

OUTPUT, METRIC = "logits", "accuracy"
LABELS, SEVERAL, EXCLUSIVE, BALANCED, UNIT, CONFIDENCE = True, False, True, True, False, True
ORDERED, AMONG, PLACED, FILES, CODES = False, False, False, False, False
FILE_KINDS: tuple[str, ...] = ("logits", "probabilities")
FIGURES: dict[str, Scale] = {"accuracy": "share", "f1": "share", **labelwise.OF_ONE, **labelwise.FIGURES}
# The smallest probability that is told apart from 0: where a file's float32 probabilities end.
FLOOR = 1e-7
grouped, placed, errors = alone.grouped, alone.placed, alone.errors


def width(head: Head) -> int:
    return len(head.labels)


def named(cells: Cells, target: Target) -> list[frozenset[str] | None]:
    return [None if cell is None else frozenset((cell,)) for cell in cells]


def head(defining: Cells, target: Target) -> Head:
    found = tuple(sorted({cell for cell in defining if cell is not None}))
    return Head(task=target.task, labels=target.classes or found)


def stand_in() -> Head:
    return Head(task="classification", labels=("first", "second"))


def faults(cells: Mapping[str, Cells], target: Target) -> Iterator[CellFault]:
    found = {split: named(of_split, target) for split, of_split in cells.items()}
    yield from label_faults(found, defining_splits(cells), needs=2, classes=target.classes)


def targets(cells: Cells, head: Head, target: Target) -> np.ndarray:
    """int64 [N]: the class, -1 where unlabelled (or of no class of the head's, which ``faults`` tells)."""
    index = {label: number for number, label in enumerate(head.labels)}
    return np.array([-1 if cell is None else index.get(cell, -1) for cell in cells], np.int64)


def known(targets: np.ndarray) -> np.ndarray:
    return np.asarray(targets >= 0)


def hidden(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    targets = targets.copy()
    targets[rows] = -1
    return targets


def strata(cells: Cells, target: Target) -> list[str]:
    return [cell or "" for cell in cells]


def spread(targets: np.ndarray) -> np.ndarray | None:
    return targets


def weights(targets: np.ndarray) -> np.ndarray:
    """Labelled samples over (classes times samples of the class): 1 on average.

    King & Zeng 2001, "Logistic regression in rare events data", as scikit-learn's ``class_weight="balanced"``.
    """
    found, labelled = np.ones(len(targets), np.float32), np.flatnonzero(targets >= 0)
    if len(labelled):
        counts = np.bincount(targets[labelled])
        found[labelled] = len(labelled) / ((counts > 0).sum() * counts[targets[labelled]])
    return found


def score(output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    return float((output.argmax(axis=1) == targets).mean())


def others(output: np.ndarray, targets: np.ndarray, head: Head) -> dict[str, float]:
    """``f1``: the macro mean, as scikit-learn's ``f1_score``, of the classes that are there or were found."""
    return {"f1": further("f1", output, targets, head)}


def further(name: str, output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    """See ``labelwise``; of exclusive classes precision, recall and F1 are the accuracy where they are micro."""
    classes = np.arange(output.shape[1])
    has, given = targets[:, None] == classes, output.argmax(axis=1)[:, None] == classes
    return labelwise.figure(name, has, given, probabilities(output), head.labels)


def parts(head: Head) -> tuple[str, ...]:
    return head.labels


def majority(targets: np.ndarray, head: Head, rows: int) -> np.ndarray:
    counts = np.bincount(targets[targets >= 0], minlength=width(head))
    return np.tile((np.arange(width(head)) == counts.argmax()).astype(np.float32), (rows, 1))


def same(expected: np.ndarray, actual: np.ndarray) -> float:
    return float((expected.argmax(axis=1) == actual.argmax(axis=1)).mean())


def probabilities(output: np.ndarray) -> np.ndarray:
    shifted = np.exp(output.astype(np.float64) - output.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def chosen(output: np.ndarray) -> np.ndarray:
    return output.argmax(axis=1)


def predictions(output: np.ndarray, head: Head) -> list[Prediction]:
    # In the output's own type: this is what apps get.
    shifted = np.exp((output - output.max(axis=1, keepdims=True)) / np.float32(head.temperature))
    rows, labels = shifted / shifted.sum(axis=1, keepdims=True), head.labels
    found = zip(chosen(output).tolist(), rows.tolist())
    return [Prediction(labels[index], dict(zip(labels, row))) for index, row in found]


def card(cells: Cells, target: Target) -> TargetCard:
    return TargetCard(classes=dict(sorted(Counter(cell for cell in cells if cell is not None).items())))


def from_file(numbers: np.ndarray, kind: str) -> np.ndarray:
    """Probabilities become their logarithms, whose softmax they are. What is declared wrongly is refused."""
    if kind == "logits":
        return numbers
    return np.log(np.clip(numbers, FLOOR, 1.0))


def improbable(numbers: np.ndarray) -> np.ndarray:
    """bool [N]: the rows that cannot be probabilities."""
    outside = (numbers < -1e-3).any(axis=1) | (numbers > 1 + 1e-3).any(axis=1)
    return np.asarray(outside | (np.abs(numbers.sum(axis=1) - 1) > 1e-2))


def file_labels(labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(labels)
