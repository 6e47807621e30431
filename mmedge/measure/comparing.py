"""One model against another on the same samples: the difference of their metric, with bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.gate import Estimate
from mmedge.measure.paired import of_figures, of_shares
from mmedge.measure.quality import Outputs, right_of, rows_of, score, to_draw

SAME = "the same outputs"
# Share of the largest output by which two models may differ and still be one: rounding of another order of sums.
_ROUNDING = 1e-4


def compared(contract: Contract, ours: Outputs, theirs: Outputs, samples: Samples, *, tail: float) -> Estimate:
    """What the metric of ``ours`` is more than that of ``theirs``; each bound leaves out ``tail``.

    ``ours``, ``theirs``: {head: float [n, W]} of the same samples; those with a known target count. Two models that give the
    same outputs but for rounding are one, whatever samples there are: the difference is 0 without doubt.
    """
    known = samples.known_rows(contract.heads)
    return compared_rows(
        contract,
        rows_of(ours, known),
        rows_of(theirs, known),
        rows_of(samples.targets, known),
        samples.groups[known],
        tail=tail,
    )


def compared_rows(
    contract: Contract,
    ours: Outputs,
    theirs: Outputs,
    targets: Mapping[str, np.ndarray],
    groups: np.ndarray,
    *,
    tail: float,
) -> Estimate:
    """The same of rows that all have a known target; ``groups``: int64 [n]."""
    n, targets = len(groups), to_draw(contract, targets)
    if _same(contract, ours, theirs):
        return Estimate(0.0, 0.0, 0.0, n, SAME)
    value = score(contract, ours, targets) - score(contract, theirs, targets)
    first, second = right_of(contract, ours, targets), right_of(contract, theirs, targets)
    if first is not None and second is not None:
        found = of_shares(first, second, groups, tail)
    else:

        def difference(rows: np.ndarray) -> float:
            some = rows_of(targets, rows)
            return score(contract, rows_of(ours, rows), some) - score(contract, rows_of(theirs, rows), some)

        found = of_figures(difference, groups, tail)
    return Estimate(value, found.low, found.high, n, found.method)


def loss_of(contract: Contract, samples: Samples, *, tail: float) -> Callable[[Outputs, Outputs], Estimate]:
    """``(before, after) -> `` what the metric loses, with bounds that each leave out ``tail``, on these samples."""
    return lambda before, after: compared(contract, before, after, samples, tail=tail)


def compared_means(ours: np.ndarray, theirs: np.ndarray, *, tail: float) -> Estimate:
    """What the mean of ``ours`` is more than that of ``theirs``, scores of 0 to 1 of the same n calls."""
    alone, value = np.arange(len(ours)), float(ours.mean() - theirs.mean())
    if np.array_equal(ours, theirs) and not np.isin(ours, (0, 1)).all():
        return Estimate(0.0, 0.0, 0.0, len(ours), SAME)
    if np.isin(ours, (0, 1)).all() and np.isin(theirs, (0, 1)).all():
        found = of_shares(ours > 0, theirs > 0, alone, tail)
    else:
        found = of_figures(lambda rows: float((ours[rows] - theirs[rows]).mean()), alone, tail)
    return Estimate(value, found.low, found.high, len(ours), found.method)


def _same(contract: Contract, ours: Outputs, theirs: Outputs) -> bool:
    for name in contract.heads:
        first, second = ours[name], theirs[name]
        if first.shape != second.shape:
            return False
        largest = max(1.0, float(np.abs(second).max(initial=0.0)))
        if not np.abs(first - second).max(initial=0.0) <= _ROUNDING * largest:
            return False
        if not np.array_equal(first.argmax(axis=1), second.argmax(axis=1)):
            return False
    return True
