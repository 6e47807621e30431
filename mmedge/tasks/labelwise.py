"""Figures of labels, of one or on average, that tasks with labels share: as scikit-learn has them, in a tenth of its time.

An interval asks two hundred times and more. ``has``: bool [N, labels], who has each label; ``given``: bool [N, labels], who
was given it; ``p``: float [N, labels], how likely each is said to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mmedge.tasks.scale import Scale

FIGURES: dict[str, Scale] = dict.fromkeys(
    ("precision", "recall", "f1", "precision_micro", "recall_micro", "f1_micro", "roc_auc", "average_precision"),
    "share",
)
# The share of rows whose label is among so many likeliest, of a row with one label.
TOP = (2, 3, 5)
OF_ONE: dict[str, Scale] = dict.fromkeys(("balanced_accuracy", *(f"top_{k}" for k in TOP)), "share")
_RATIOS = ("precision", "recall", "f1")


def figure(
    name: str, has: np.ndarray, given: np.ndarray, p: np.ndarray, labels: Sequence[str], *, every: bool = False
) -> float:
    """A figure of ``FIGURES`` or ``OF_ONE``, or one label's as ``FIGURE.LABEL``; NaN for what there is not.

    The mean over labels (macro) is of those that some row has or was given, unless it is of ``every`` one; that of areas,
    one label against all others, is of those that some rows have and some have not.
    """
    of, _, label = name.partition(".")
    if label:
        if label not in labels or of not in (*_RATIOS, "roc_auc", "average_precision"):
            return math.nan
        column = slice(labels.index(label), labels.index(label) + 1)
        has, given, p, every = has[:, column], given[:, column], p[:, column], True
    if of.startswith("top_") and of in OF_ONE:
        return float((_before(has, p) < int(of.removeprefix("top_"))).mean())
    if of in ("roc_auc", "average_precision"):
        return _mean(roc_auc if of == "roc_auc" else average_precision, has, p)
    both, there, found = (has & given).sum(axis=0), has.sum(axis=0), given.sum(axis=0)
    if of == "balanced_accuracy":
        return float((both[there > 0] / there[there > 0]).mean()) if there.any() else math.nan
    ratio, _, micro = of.partition("_")
    if ratio not in _RATIOS or micro not in ("", "micro"):
        return math.nan
    if micro:
        both, there, found = (x.sum(keepdims=True) for x in (both, there, found))
    elif not every:
        seen = there + found > 0
        both, there, found = both[seen], there[seen], found[seen]
    above = 2 * both if ratio == "f1" else both
    below = {"f1": there + found, "precision": found, "recall": there}[ratio]
    return float((above / np.maximum(below, 1)).mean()) if len(both) else math.nan


def _before(has: np.ndarray, p: np.ndarray) -> np.ndarray:
    """int64 [N]: how many labels are said to be likelier than the one that a row has; one that is as likely stands before it."""
    own = p[has][:, None]
    return ((p >= own) & ~has).sum(axis=1)


def _mean(area: Callable[[np.ndarray, np.ndarray], float], has: np.ndarray, p: np.ndarray) -> float:
    each = [area(column, scores) for column, scores in zip(has.T, p.T) if column.any() and not column.all()]
    return float(np.mean(each)) if each else math.nan


def roc_auc(has: np.ndarray, scores: np.ndarray) -> float:
    """How often who has the label, bool [N], stands above who has not, by scores [N] (Mann & Whitney 1947); both are there."""
    from scipy.stats import rankdata

    there = int(has.sum())
    above = rankdata(scores)[has].sum() - there * (there + 1) / 2
    return float(above / (there * (len(has) - there)))


def average_precision(has: np.ndarray, scores: np.ndarray) -> float:
    """The area under precision and recall of who has the label, bool [N], by scores [N]; some row has it."""
    right, everything = np.sort(scores[has]), np.sort(scores)
    above = [len(each) - np.searchsorted(each, right) for each in (right, everything)]
    return float((above[0] / above[1]).mean())
