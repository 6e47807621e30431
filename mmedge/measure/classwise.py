"""Figures of outputs that are one of several labels: the recall of the label that fares worst, and how calibrated they are."""

from __future__ import annotations

from functools import partial

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

    Where a row may have several labels, of every label of every row. Probabilities are those at the head's temperature.

    Of few samples it is more than the truth, never less, so that a limit on it errs to the safe side.
    """
    task = tasks.of(head)
    p, n = task.probabilities(output.astype(np.float64) / head.temperature), len(output)
    if task.SEVERAL:
        sure, right, groups = p.ravel(), (targets > 0.5).ravel().astype(np.float64), np.repeat(groups, p.shape[1])
    else:
        chosen = task.chosen(output)
        sure, right = p[np.arange(n), chosen], (chosen == targets).astype(np.float64)

    # The bins stay where they are: were they cut anew without some rows, the jackknife would measure their borders' moves.
    bins = bins_of(sure)
    figure = partial(calibration_error, sure, right, bins)
    value, found = figure(np.arange(len(sure))), of_figure(figure, groups, "difference", tail)
    return Estimate(value, max(found.low, 0.0), found.high, n, found.method)


def bins_of(sure: np.ndarray) -> np.ndarray:
    """int64 [n]: the bin of each probability, at most 15 that hold as many each, at least 10; equal ones share one.

    Naeini, Cooper & Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning", who take bins of
    equal mass as the plain form; so does Nguyen & O'Connor 2015.
    """
    count = max(1, min(_BINS, len(sure) // _FEWEST))
    return np.asarray(np.searchsorted(np.sort(sure), sure) * count // max(1, len(sure)))


def calibration_error(sure: np.ndarray, right: np.ndarray, bins: np.ndarray, rows: np.ndarray) -> float:
    """THE expected calibration error over ``rows``: the mean distance of probability and share right over bins, by samples.

    ``sure``, ``right``: float [n]; ``bins``: as ``bins_of`` gives them.
    """
    return float(np.abs(np.bincount(bins[rows], (sure - right)[rows])).sum() / len(rows))
