"""Figures of outputs that are one of several labels: the recall of the label that fares worst, and how calibrated they are."""

from __future__ import annotations

import numpy as np

from mmedge import tasks
from mmedge.gate import Estimate
from mmedge.measure.intervals import of_figure, of_share
from mmedge.tasks import Head

WORST = "the worst label's exact interval (intersection-union)"
# Equally filled bins of confidence, and the fewest samples of one.
_BINS, _FEWEST = 15, 10


def worst_class_recall(
    head: Head, output: np.ndarray, targets: np.ndarray, groups: np.ndarray, tail: float
) -> Estimate:
    """The least share of right samples that a label has, of rows [n] that all have one. ``output``: float [n, W].

    All labels lie above the least of their lower bounds with the confidence that each has (Berger 1982, intersection-union);
    of the upper ones, the least holds with their number taken into account (Bonferroni). A label that no row has is left out.
    """
    chosen = tasks.of(head).chosen(output)
    labels = np.unique(targets)
    recalls, lows, highs = [], [], []
    for label in labels:
        rows = targets == label
        right = chosen[rows] == label
        recalls.append(float(right.mean()))
        lows.append(of_share(right, groups[rows], tail).low)
        highs.append(of_share(right, groups[rows], tail / len(labels)).high)
    return Estimate(min(recalls), min(lows), min(highs), len(targets), WORST)


def ece(head: Head, output: np.ndarray, targets: np.ndarray, groups: np.ndarray, tail: float) -> Estimate:
    """The expected calibration error of the label that each row is given: mean distance of confidence and share of right rows.

    In bins that hold equally many samples (Nguyen & O'Connor 2015; Naeini, Cooper & Hauskrecht 2015). Of few samples it is
    more than the truth, never less, so that a limit on it errs to the safe side.
    """
    task = tasks.of(head)
    chosen = task.chosen(output)
    sure = task.probabilities(output.astype(np.float64))[np.arange(len(output)), chosen]
    right = (chosen == targets).astype(np.float64)

    # The bins stay where they are: were they cut anew without some rows, the jackknife would measure their borders' moves.
    count = max(1, min(_BINS, len(sure) // _FEWEST))
    bins = np.empty(len(sure), np.int64)
    bins[np.argsort(sure, kind="stable")] = np.arange(len(sure)) * count // len(sure)

    def figure(rows: np.ndarray) -> float:
        apart = np.bincount(bins[rows], (sure - right)[rows], count)
        return float(np.abs(apart).sum() / len(rows))

    value, found = figure(np.arange(len(targets))), of_figure(figure, groups, "difference", tail)
    return Estimate(value, max(found.low, 0.0), found.high, len(targets), found.method)
