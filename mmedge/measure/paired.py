"""What one model has more than another on the same samples, with bounds that each hold with a stated confidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from mmedge.measure.intervals import Bounds, effective_size, of_figure

SCORE, SCORE_GROUPS = "paired score test (Tango)", "paired score test (Tango), effective size of groups"
# More samples than these on which one of two models alone is right: the normal approximation does.
_LARGE = 200
_STEPS = 18


def of_shares(ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray, tail: float) -> Bounds:
    """The bounds of the difference of two shares of right samples. ``ours``, ``theirs``: bool [n]; ``groups``: int [n].

    Each end leaves out ``tail``. It is where the score test of Tango 1998, "Equivalence test and confidence interval for the
    difference in proportions for the paired-sample design", rejects; with few samples on which one alone is right, its
    probability is that of all tables as extreme, at the nuisance parameter's estimate under the limit (Lloyd 2008). Of
    groups the tables are of the effective size of the differences (Korn & Graubard 1998).
    """
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    size = effective_size(difference, groups, tail)
    n = len(difference)
    gained, lost = float((difference > 0).sum()) * size / n, float((difference < 0).sum()) * size / n
    low = _low(math.floor(gained + 1e-9), math.ceil(lost - 1e-9), math.floor(size), tail)
    high = -_low(math.floor(lost + 1e-9), math.ceil(gained - 1e-9), math.floor(size), tail)
    value = float(difference.mean())
    alone = len(np.unique(groups)) == n
    return Bounds(min(low, value), max(high, value), SCORE if alone else SCORE_GROUPS)


def of_figures(difference: Callable[[np.ndarray], float], groups: np.ndarray, tail: float) -> Bounds:
    """The bounds of ``difference(rows)`` of two models' figures, each leaving out ``tail``; see ``intervals.of_figure``."""
    return of_figure(difference, groups, "difference", tail)


@lru_cache(4096)
def _low(gained: int, lost: int, n: int, tail: float) -> float:
    """The least difference that is not refused: by bisection between -1 and what was measured."""
    low, high = -1.0, (gained - lost) / n
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _probability(gained, lost, n, middle) <= tail:
            low = middle
        else:
            high = middle
    return low


def _probability(gained: int, lost: int, n: int, limit: float) -> float:
    """That of a table at least as far above ``limit``, where the difference is just that."""
    from scipy.special import gammaln, ndtr

    score, only_theirs = _score(np.array(gained), np.array(lost), n, limit)
    if gained + lost > _LARGE:
        return float(ndtr(-score))
    theirs = float(only_theirs)
    chances = np.clip(np.array([theirs + limit, theirs]), 1e-12, 1.0)
    most = [int(min(n, n * p + 8 * (n * p * (1 - p)) ** 0.5 + 12)) for p in chances]
    b, c = np.meshgrid(np.arange(most[0] + 1), np.arange(most[1] + 1), indexing="ij")
    rest = n - b - c
    inside = rest >= 0
    b, c, rest = b[inside], c[inside], rest[inside]
    same = max(1e-12, 1 - chances.sum())
    logs = gammaln(n + 1) - gammaln(b + 1) - gammaln(c + 1) - gammaln(rest + 1)
    logs = logs + b * np.log(chances[0]) + c * np.log(chances[1]) + rest * np.log(same)
    scores, _ = _score(b, c, n, limit)
    return float(np.exp(logs)[scores >= float(score) - 1e-9].sum())


def _score(gained: np.ndarray, lost: np.ndarray, n: int, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """(Tango's score, the likeliest probability that they alone are right) where the difference is ``limit``."""
    b, c = np.asarray(gained, np.float64), np.asarray(lost, np.float64)
    first, second, third = 2 * n, -b - c + (2 * n - b + c) * limit, -c * limit * (1 - limit)
    theirs = (np.sqrt(np.maximum(second**2 - 4 * first * third, 0)) - second) / (2 * first)
    theirs = np.maximum(theirs, max(0.0, -limit))
    variance = np.maximum(n * (2 * theirs + limit * (1 - limit)), 1e-12)
    return (b - c - n * limit) / np.sqrt(variance), theirs
