"""Intervals that cover: of a share of samples, and of any other figure, over samples or over groups of them.

A share of right samples is binomial: its interval is exact (Clopper & Pearson 1934), with the effective number of
samples where they come in groups (Korn & Graubard 1998). Any other figure has Student's interval around it, with the
variance of the jackknife over groups, on a scale where the figure has no edge (logit of a share, and so on). None has
width zero: where nothing varies, the rule of three says how far the truth may be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmedge.tasks.scale import Scale

# Most blocks that a jackknife leaves out one by one: groups are pooled at random into so many (Kott 2001).
_BLOCKS = 200
EXACT, EXACT_GROUPS = "exact (Clopper-Pearson)", "exact, effective size of groups (Korn-Graubard)"
JACKKNIFE, JACKKNIFE_GROUPS, RULE = "jackknife t", "jackknife t over groups", "rule of three"


@dataclass(frozen=True)
class Bounds:
    """The ends of an interval and the name of the method that they are of."""

    low: float
    high: float
    method: str


def student(tail: float, freedom: float) -> float:
    """Student's t that is exceeded with probability ``tail``."""
    from scipy.special import stdtrit

    return float(stdtrit(max(freedom, 1), 1 - tail))


def of_share(right: np.ndarray, groups: np.ndarray, tail: float = 0.025) -> Bounds:
    """The interval of the mean of ``right`` (bool or 0 to 1, [n]), which leaves out ``tail`` on each side. ``groups``: int [n].

    Clopper & Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial"; for groups
    Korn & Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts estimated
    from survey data". Of one group the samples are all that there is to go by.
    """
    from scipy.special import betaincinv

    right = np.asarray(right, np.float64)
    share, size = float(right.mean()), effective_size(right, groups, tail)
    hits = share * size
    low = float(betaincinv(hits, size - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, size - hits, 1 - tail)) if hits < size else 1.0
    return Bounds(low, high, EXACT if _alone(groups) else EXACT_GROUPS)


def effective_size(values: np.ndarray, groups: np.ndarray, tail: float) -> float:
    """How many independent samples say as much of the mean as these: at most n, fewer where those of a group are alike.

    n over the design effect, less what few groups tell of the variance (Korn & Graubard 1998).
    """
    n = len(values)
    if _alone(groups) or n < 2:
        return float(n)
    _, number = np.unique(groups, return_inverse=True)
    count, centred = int(number.max()) + 1, values - values.mean()
    if count == 1:
        return float(n)
    of_samples = float((centred**2).sum()) / (n - 1) / n
    sums = np.bincount(number, centred)
    of_groups = count / (count - 1) * float((sums**2).sum()) / n**2
    design = max(1.0, of_groups / of_samples) if of_samples > 0 else 1.0
    few = (student(tail, n - 1) / student(tail, count - 1)) ** 2
    return max(1.0, n / design * few)


def of_figure(
    figure: Callable[[np.ndarray], float], groups: np.ndarray, scale: Scale = "share", tail: float = 0.025
) -> Bounds:
    """The interval of ``figure(rows)``, which leaves out ``tail`` on each side. ``groups``: int [n], the independent units.

    Student's t with a degree of freedom fewer than there are groups, and the jackknife's variance over them (Efron & Stein
    1981; for few groups MacKinnon, Nielsen & Webb 2023, "Fast and reliable jackknife and bootstrap methods for cluster-robust
    inference"), not scaled down by (groups - 1) / groups, so that it is never too small (Hansen 2025, "Jackknife standard
    errors for clustered regression"). It is never narrower than if each sample were a group of its own, which is all that one group can tell.
    """
    rows = np.arange(len(groups))
    value = figure(rows)
    units = [rows] if _alone(groups) or len(np.unique(groups)) == 1 else [groups, rows]
    found = [_student(figure, each, value, scale, tail) for each in units]
    reaches = [each for each in found if each is not None]
    if not reaches or value != value:
        reach = 1 - tail ** (1 / len(np.unique(groups)))  # Hanley & Lippman-Hand 1983: nothing went wrong in so many
        return Bounds(*_clipped(value - reach, value + reach, scale), RULE)
    low, high = min(low for low, _ in reaches), max(high for _, high in reaches)
    return Bounds(min(low, value), max(high, value), JACKKNIFE if _alone(groups) else JACKKNIFE_GROUPS)


def _student(
    figure: Callable[[np.ndarray], float], units: np.ndarray, value: float, scale: Scale, tail: float
) -> tuple[float, float] | None:
    """Student's interval on the figure's scale; None where nothing varies or the figure stands at its edge."""
    blocks = _blocks(units)
    if not blocks.any():  # one block: without it there is no row, and no figure
        return None
    left_out = np.array([figure(np.flatnonzero(blocks != block)) for block in range(int(blocks.max()) + 1)])
    left_out = left_out[np.isfinite(left_out)]
    count = len(left_out)
    if count < 2:
        return None
    deviation = float(((left_out - value) ** 2).sum() ** 0.5)
    slope = _slope(value, scale)
    if deviation <= 1e-12 or slope is None:
        return None
    reach = student(tail, count - 1) * deviation * slope
    middle = _there(value, scale)
    return _back(middle - reach, scale), _back(middle + reach, scale)


def _blocks(units: np.ndarray) -> np.ndarray:
    """int64 [n]: the block of each row, whole units at random in at most ``_BLOCKS``."""
    _, number = np.unique(units, return_inverse=True)
    count = int(number.max()) + 1
    if count <= _BLOCKS:
        return np.asarray(number)
    dealt = np.random.default_rng(0).permutation(np.arange(count) % _BLOCKS)
    return np.asarray(dealt[number])


def _there(value: float, scale: Scale) -> float:
    match scale:
        case "share":
            return float(np.log(value / (1 - value)))
        case "unexplained":
            return float(-np.log(1 - value))
        case "error":
            return float(np.log(value))
        case "correlation":
            return float(np.arctanh(value))
    return value


def _back(value: float, scale: Scale) -> float:
    match scale:
        case "share":
            return float(0.5 * (1 + np.tanh(value / 2)))
        case "unexplained":
            return float(1 - np.exp(-value))
        case "error":
            return float(np.exp(min(value, 700.0)))
        case "correlation":
            return float(np.tanh(value))
    return value


def _slope(value: float, scale: Scale) -> float | None:
    """How fast the scale runs at the value; None at its edge."""
    slopes: dict[Scale, Callable[[], float]] = {
        "share": lambda: value * (1 - value),
        "unexplained": lambda: 1 - value,
        "error": lambda: value,
        "correlation": lambda: 1 - value**2,
        "difference": lambda: 1.0,
    }
    slope = slopes[scale]()
    return 1 / slope if slope > 1e-9 else None


def _clipped(low: float, high: float, scale: Scale) -> tuple[float, float]:
    least = {"share": 0.0, "error": 0.0, "correlation": -1.0}.get(scale, -np.inf)
    most = {"share": 1.0, "unexplained": 1.0, "correlation": 1.0}.get(scale, np.inf)
    return float(np.clip(low, least, most)), float(np.clip(high, least, most))


def _alone(groups: np.ndarray) -> bool:
    """Whether each sample is a group of its own."""
    return len(np.unique(groups)) == len(groups)
