"""Is the teacher worth it? Differences between two ways to make a student, paired by sample and by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.measure.comparing import compared
from mmedge.measure.intervals import of_figure
from mmedge.measure.quality import (
    Outputs,
    SubsetOutputs,
    balanced,
    bootstrap_rows,
    quality,
    rows_of,
    score,
    scores_of,
    to_draw,
)
from mmedge.report.schema import ControlRecord, DecisionRecord

# A student may fall this far below one that was trained for the subset alone (the project's own limit).
SUBSET_MARGIN = 0.02
_ONE_SEED = "; of one seed, so that what another would give is not in the interval"


def gain(
    contract: Contract,
    ours: Sequence[Outputs],
    theirs: Sequence[Outputs],
    samples: Samples,
    *,
    name: str,
    resamples: int,
    seed: int,
) -> ControlRecord:
    """The record of a control. ``ours``, ``theirs``: the outputs {head: [n, W]} of one seed each, in the same order.

    ``gain`` is the mean over seeds of the difference of the metric, ``gain_ci95`` its interval (see ``paired``), and
    ``gain_median`` the median over seeds, which one seed gone astray does not move.
    """
    pairs, known = list(zip(ours, theirs, strict=True)), to_draw(contract, samples.targets)

    def difference(number: int, rows: np.ndarray) -> float:
        targets = rows_of(known, rows)
        distilled, control = (score(contract, rows_of(outputs, rows), targets) for outputs in pairs[number])
        return distilled - control

    if len(pairs) == 1:
        found = compared(contract, ours[0], theirs[0], samples, tail=0.025)
        low, high = found.low, found.high
    else:
        low, high = paired(difference, len(pairs), samples, resamples=resamples, seed=seed)
    with_teacher, without = ([score(contract, outputs, samples.targets) for outputs in side] for side in (ours, theirs))
    middle = int(np.argsort(without)[len(without) // 2])
    value = float(np.mean(with_teacher) - np.mean(without))
    return ControlRecord(
        name=name,
        quality=quality(contract, theirs[middle], samples),
        gain=value,
        gain_ci95=(low, high),
        gain_median=float(np.median(np.subtract(with_teacher, without))),
        seeds=len(pairs),
        distilled_by_seed=with_teacher,
        control_by_seed=without,
        notes=[_in_words(name, value, low, high) if len(pairs) > 1 else _of_one_seed(name, value, low, high)],
    )


def paired(
    difference: Callable[[int, np.ndarray], float], seeds: int, samples: Samples, *, resamples: int, seed: int
) -> tuple[float, float]:
    """The 95 % interval of the mean over seeds of ``difference(number of the seed, rows)``.

    Seeds and samples are both drawn by chance, and every seed's students get the same samples: the model of many
    readers and many cases of Obuchowski & Rockette 1995. The variance of the mean is MS / seeds + Cov, where MS is that
    of the differences between seeds, and Cov the covariance of two seeds' differences when whole groups of labelled
    samples are drawn again (Field & Welsh 2007), the same rows for both sides. MS is not taken below what the samples
    alone give: three seeds may agree by luck. The interval is Student's, with the degrees of freedom of Satterthwaite
    1946 (for this model Hillis 2007): few seeds give a wide one. In simulations with three seeds it covers the truth in
    .92 to .98 of the cases; a bootstrap that draws the seeds again, in .77 where chance is mostly theirs.

    One seed tells nothing of others, one group nothing of others: the interval is then over the samples alone, and no
    proof of a gain. None has width zero: where nothing varies, the rule of three says how far the truth may be.
    """
    known = np.flatnonzero(samples.labelled)
    groups = samples.groups[known]
    if seeds == 1:
        found = of_figure(lambda rows: difference(0, known[rows]), groups, "difference")
        return found.low, found.high
    if len(np.unique(groups)) == 1:
        groups = np.arange(len(known))
    each = range(seeds)
    draws = np.array(
        [[difference(number, known[rows]) for number in each] for rows in bootstrap_rows(groups, resamples, seed)]
    )
    from scipy.special import stdtrit

    draws = draws[np.isfinite(draws).all(axis=1)]  # R2 of equal targets is no number
    measured = [difference(number, known) for number in each]
    units = len(np.unique(groups))
    chance = np.cov(draws.T) * units / max(1, units - 1)
    shared = max(0.0, float(chance.sum() - chance.trace()) / (seeds * (seeds - 1)))
    of_samples = max(0.0, float(chance.trace()) / seeds - shared)
    of_seeds = float(np.var(measured, ddof=1))
    variance = max(of_seeds, of_samples) / seeds + shared
    middle = float(np.mean(measured))
    if variance == 0:
        reach = 1 - 0.025 ** (1 / units)
        return middle - reach, middle + reach
    spread = (of_seeds / seeds) ** 2 / (seeds - 1) + (shared + of_samples / seeds) ** 2 / max(1, units - 1)
    reach = float(stdtrit(variance**2 / spread, 0.975)) * variance**0.5
    return middle - reach, middle + reach


def decide(
    contract: Contract,
    distilled: Sequence[SubsetOutputs],
    control: Sequence[SubsetOutputs],
    validation: Samples,
    *,
    resamples: int,
    seed: int,
) -> DecisionRecord:
    """Which student ships, by validation alone.

    ``distilled``, ``control``: ``subset_outputs`` of a student a seed. The figure is the one that checkpoints are
    chosen by (``balanced``), so that a teacher that helps the whole and harms the subsets is seen. Kept is whichever is
    better on average over the seeds; on a tie the student without a teacher.
    """
    pairs, known = list(zip(distilled, control, strict=True)), to_draw(contract, validation.targets)
    whole = "+".join(contract.modalities)

    def figure(outputs: SubsetOutputs, rows: np.ndarray) -> float:
        scores = scores_of(contract, outputs, known, rows)
        return balanced(scores.get(whole, float(np.mean(list(scores.values())))), scores.values())

    def difference(number: int, rows: np.ndarray) -> float:
        ours, theirs = pairs[number]
        return figure(ours, rows) - figure(theirs, rows)

    everything = np.arange(len(validation))
    value = float(np.mean([difference(number, everything) for number in range(len(pairs))]))
    low, high = paired(difference, len(pairs), validation, resamples=resamples, seed=seed)
    measured = f"{value:+.3f} [{low:+.3f}, {high:+.3f}] on validation, all subsets weighed"
    if value > 0:
        doubt = "; not proven, but not worse" if low <= 0 else _ONE_SEED if len(pairs) == 1 else ""
        return DecisionRecord(
            kept="distilled", said=f"distillation kept: {measured}{doubt}", gain=value, gain_ci95=(low, high)
        )
    reason = f"do not distil: the student without a teacher is kept; with one {measured}"
    return DecisionRecord(kept="control", said=reason, gain=value, gain_ci95=(low, high))


def _of_one_seed(name: str, value: float, low: float, high: float) -> str:
    """What one seed says: of the samples, and nothing of other seeds."""
    if name.startswith("alone-"):
        return _in_words(name, value, low, high) + _ONE_SEED
    return f"no proven gain{_ONE_SEED}: three seeds would tell more (controls: {{seeds: 3}})"


def _in_words(name: str, value: float, low: float, high: float) -> str:
    """What an interval means, in words; the name of the control says what is asked."""
    if name.startswith("alone-"):
        if value >= -SUBSET_MARGIN:
            proof = "" if low >= -SUBSET_MARGIN else ", though the interval reaches further"
            return f"holds: no more than {SUBSET_MARGIN:g} below a student trained for this subset alone{proof}"
        proof = "" if high < -SUBSET_MARGIN else "; the interval reaches back inside"
        return f"falls {-value:.3f} below a student trained for this subset alone{proof}"
    better, worse = {
        "no-distillation": ("distillation helps", "distillation hurts"),
        "same-modality-teacher": (
            "the teacher's other modalities help",
            "a teacher of the student's own modalities is better",
        ),
        "no-pretraining": ("pretraining helps", "pretraining hurts"),
    }[name]
    if low > 0:
        return f"{better}: the whole interval of the gain is above zero"
    if high < 0:
        return f"{worse}: the whole interval of the gain is below zero"
    return "no proven gain: the interval includes zero"
