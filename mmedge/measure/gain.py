"""Is the teacher worth it? The gain of distilled over control students, paired by sample and by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmedge.data.samples import Samples
from mmedge.measure.quality import bootstrap_rows, quality, score
from mmedge.spec import Contract


def gain(
    contract: Contract,
    distilled: Sequence[np.ndarray],
    control: Sequence[np.ndarray],
    samples: Samples,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The record of a control. ``distilled``, ``control``: one output [n, outputs] a seed, in the same order.

    ``gain`` is the mean over seeds of the difference; its interval resamples the seeds' pairs and, within them, whole
    groups of test samples, so that it covers both sources of chance.
    """
    pairs = list(zip(distilled, control, strict=True))
    rng = np.random.default_rng(seed)
    known = np.flatnonzero(samples.labelled)
    draws = []
    for rows in bootstrap_rows(samples.groups[known], resamples, seed):
        rows = known[rows]
        drawn = rng.integers(len(pairs), size=len(pairs))
        draws.append(np.mean([_difference(contract, pairs[index], samples.targets, rows) for index in drawn]))
    low, high = np.percentile(draws, [2.5, 97.5])
    with_teacher, without = (
        [score(contract, output, samples.targets) for output in outputs] for outputs in (distilled, control)
    )
    middle = int(np.argsort(without)[len(without) // 2])
    return {
        "name": "no-distillation",
        "quality": quality(contract, control[middle], samples, resamples=resamples, seed=seed).record(),
        "gain": float(np.mean(with_teacher) - np.mean(without)),
        "gain_ci95": [float(low), float(high)],
        "seeds": len(pairs),
        "distilled_by_seed": with_teacher,
        "control_by_seed": without,
        "notes": [_said(float(low), float(high))],
    }


def _difference(
    contract: Contract, pair: tuple[np.ndarray, np.ndarray], targets: np.ndarray, rows: np.ndarray
) -> float:
    distilled, control = pair
    return score(contract, distilled[rows], targets[rows]) - score(contract, control[rows], targets[rows])


def _said(low: float, high: float) -> str:
    if low > 0:
        return "distillation helps: the whole interval of the gain is above zero"
    if high < 0:
        return "distillation hurts: the whole interval of the gain is below zero; train without a teacher"
    return "no proven gain: the interval includes zero"
