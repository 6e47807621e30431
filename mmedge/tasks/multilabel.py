"""Any number of labels a sample: a logit of its own for each, judged by the mean average precision."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmedge.tasks import alone, labelwise
from mmedge.tasks.cells import CellFault, Cells, TargetCard, defining_splits, label_faults
from mmedge.tasks.classification import FLOOR
from mmedge.tasks.head import Head, Target
from mmedge.tasks.prediction import Prediction
from mmedge.tasks.scale import Scale

OUTPUT, METRIC = "logits", "average_precision"
LABELS, SEVERAL, EXCLUSIVE, BALANCED, UNIT, CONFIDENCE = True, True, False, False, False, True
ORDERED, AMONG, PLACED, FILES, CODES = False, False, False, False, False
FILE_KINDS: tuple[str, ...] = ("logits", "probabilities")
FIGURES: dict[str, Scale] = {
    **dict.fromkeys(("average_precision", "f1_micro", "f1", "all_labels_right"), "share"),
    **labelwise.FIGURES,
}


def labels_in(cell: str | None, separator: str) -> frozenset[str] | None:
    """The labels of one cell: a JSON list of strings, or names with ``separator`` between them; None where it is empty.

    ``[]``, or the separator alone, says that the sample has none of the labels, which is not the same as unlabelled.
    """
    if cell is None:
        return None
    listed: Any = cell.split(separator)
    if cell.startswith("["):
        try:
            listed = json.loads(cell)
        except (ValueError, RecursionError):
            listed = cell.split(separator)
    return frozenset(str(name).strip() for name in listed) - {""}


grouped, placed, errors = alone.grouped, alone.placed, alone.errors


def width(head: Head) -> int:
    return len(head.labels)


def named(cells: Cells, target: Target) -> list[frozenset[str] | None]:
    return [labels_in(cell, target.separator) for cell in cells]


def head(defining: Cells, target: Target) -> Head:
    found = tuple(sorted({name for names in named(defining, target) for name in names or ()}))
    return Head(task=target.task, labels=target.classes or found)


def stand_in() -> Head:
    return Head(task="multilabel", labels=("first", "second"))


def faults(cells: Mapping[str, Cells], target: Target) -> Iterator[CellFault]:
    found = {split: named(of_split, target) for split, of_split in cells.items()}
    yield from label_faults(found, defining_splits(cells), needs=2, classes=target.classes)
    for split in ("validation", "test"):
        labelled = [names for names in found.get(split, ()) if names is not None]
        if labelled and not any(labelled):
            what = f"no sample of the {split} split has any of the labels: nothing can be judged by them"
            yield CellFault("error", "no-positives", what, "correct data.split or data.ratios", split)


def targets(cells: Cells, head: Head, target: Target) -> np.ndarray:
    """float32 [N, labels]: 1 where a row has the label, 0 where not; NaN everywhere in a row that is unlabelled."""
    place = {label: index for index, label in enumerate(head.labels)}
    found = np.zeros((len(cells), len(head.labels)), np.float32)
    for row, names in enumerate(named(cells, target)):
        if names is None:
            found[row] = np.nan
        else:
            found[row, [place[name] for name in names if name in place]] = 1
    return found


def known(targets: np.ndarray) -> np.ndarray:
    return np.asarray((~np.isnan(targets)).all(axis=1))


def hidden(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    targets = targets.copy()
    targets[rows] = np.nan
    return targets


def strata(cells: Cells, target: Target) -> list[str]:
    """The rarest label of each row, so that a rare label reaches every split.

    A greedy reading of Sechidis et al. 2011, "On the stratification of multi-label data".
    """
    rows = named(cells, target)
    counts = Counter(name for names in rows if names for name in names)
    return [
        "" if names is None else min(names, key=lambda name: (counts[name], name)) if names else "(none)"
        for names in rows
    ]


def spread(targets: np.ndarray) -> np.ndarray | None:
    """The rarest label of each row."""
    return np.where(targets == 1, np.nansum(targets, axis=0), np.inf).argmin(axis=1)


def weights(targets: np.ndarray) -> np.ndarray:
    return np.ones(len(targets), np.float32)


def score(output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    """The macro mean over labels of the area under precision and recall; a label that no row has is left out.

    As scikit-learn's ``average_precision_score``, which takes several times as long; an interval asks a thousand times.
    """
    each = zip(output.T, targets.T > 0.5)
    found = [labelwise.average_precision(has, scores) for scores, has in each if has.any()]
    return float(np.mean(found)) if found else float("nan")


def others(output: np.ndarray, targets: np.ndarray, head: Head) -> dict[str, float]:
    """``f1_micro``, ``f1`` (macro) as scikit-learn's ``f1_score``, and the share of rows with all labels right."""
    f1 = {name: further(name, output, targets, head) for name in ("f1_micro", "f1")}
    return f1 | {"all_labels_right": float(((output > 0) == (targets > 0.5)).all(axis=1).mean())}


def further(name: str, output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    """See ``labelwise``; means are over every label, as scikit-learn takes them."""
    return labelwise.figure(name, targets > 0.5, output > 0, output, head.labels, every=True)


def parts(head: Head) -> tuple[str, ...]:
    return head.labels


def majority(targets: np.ndarray, head: Head, rows: int) -> np.ndarray:
    """How frequent each label is, as log odds: the same for every row."""
    labelled = targets[known(targets)]
    often = np.clip(labelled.mean(axis=0) if len(labelled) else np.full(width(head), 0.5), FLOOR, 1 - FLOOR)
    return np.tile((np.log(often) - np.log1p(-often)).astype(np.float32), (rows, 1))


def same(expected: np.ndarray, actual: np.ndarray) -> float:
    """The share of labels that are on the same side of even odds."""
    return float(((expected > 0) == (actual > 0)).mean())


def probabilities(output: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(output.astype(np.float64) / 2)))  # no overflow


def chosen(output: np.ndarray) -> np.ndarray:
    """None in particular: a row may have any number."""
    return np.zeros(len(output), np.int64)


def predictions(output: np.ndarray, head: Head) -> list[Prediction]:
    return [_prediction(row, head.labels) for row in 0.5 * (1 + np.tanh(output / np.float32(2 * head.temperature)))]


def _prediction(row: np.ndarray, labels: Sequence[str]) -> Prediction:
    probabilities = {label: float(p) for label, p in zip(labels, row)}
    found = sorted((label for label in labels if probabilities[label] > 0.5), key=lambda label: -probabilities[label])
    return Prediction(probabilities=probabilities, labels=tuple(found))


def card(cells: Cells, target: Target) -> TargetCard:
    counts = Counter(name for names in named(cells, target) for name in names or ())
    return TargetCard(classes=dict(sorted(counts.items())))


def from_file(numbers: np.ndarray, kind: str) -> np.ndarray:
    """Probabilities of labels that do not exclude each other become their log odds."""
    if kind == "logits":
        return numbers
    p = np.clip(numbers, FLOOR, 1 - FLOOR)
    return np.log(p) - np.log1p(-p)


def improbable(numbers: np.ndarray) -> np.ndarray:
    """bool [N]: the rows that cannot be probabilities."""
    return np.asarray((numbers < -1e-3).any(axis=1) | (numbers > 1 + 1e-3).any(axis=1))


def file_labels(labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(labels)
