"""Latency, honestly: warmed up, interleaved, with percentiles and spread. The one place where anything is timed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a call. ``cv``: standard deviation over mean; above 0.3 the machine was busy or throttled."""

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p99_9_ms: float
    mean_ms: float
    cv: float
    runs: int

    def record(self) -> dict[str, Any]:
        return asdict(self)


def spans(
    calls: Mapping[Name, Callable[[], Any]],
    *,
    runs: int,
    warmup: int,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Name, np.ndarray]:
    """Time each call ``runs`` times, one of each a round, since machines drift and ratios are judged. int64 [runs], ns.

    Each round has an order of its own: in a fixed one, whoever follows a large model would always find its caches cold.
    ``step(done, total)`` is told of progress, outside the timed spans. Garbage collection is off while timing.
    """
    for call in calls.values():
        for _ in range(warmup):
            call()
    # All is made ready beforehand: what stands between two timed calls takes their caches from them.
    each, taken = list(calls.values()), [[0] * runs for _ in calls]
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(len(each)), (runs, 1)), axis=1).tolist()
    clock, collecting = time.perf_counter_ns, gc.isenabled()
    gc.disable()
    try:
        for index, order in enumerate(orders):
            for position in order:
                call = each[position]
                start = clock()
                call()
                taken[position][index] = clock() - start
            if index % 100 == 99:
                step(index + 1, runs)
    finally:
        if collecting:
            gc.enable()
    return {name: np.array(times, np.int64) for name, times in zip(calls, taken)}


def ratio_interval(
    ours: np.ndarray, theirs: np.ndarray, *, block: int = 20, resamples: int = 500
) -> tuple[float, float]:
    """95 % interval of the ratio of two medians, int64 [runs] each of the same rounds.

    Block bootstrap (Kunsch 1989): neighbouring rounds share the machine's state, so that whole stretches are drawn.
    """
    runs, random = min(len(ours), len(theirs)), np.random.default_rng(0)
    block = max(1, min(block, runs // 5))
    starts = random.integers(0, runs - block + 1, (resamples, -(-runs // block)))
    rows = (starts[:, :, None] + np.arange(block)).reshape(resamples, -1)
    low, high = np.percentile(np.median(ours[rows], axis=1) / np.median(theirs[rows], axis=1), [2.5, 97.5])
    return float(low), float(high)


def summary(nanoseconds: np.ndarray) -> Timing:
    """Percentiles of measured spans, int64 [runs] in nanoseconds."""
    ms = nanoseconds / 1e6
    p50, p90, p95, p99, p99_9 = (float(value) for value in np.percentile(ms, [50, 90, 95, 99, 99.9]))
    return Timing(p50, p90, p95, p99, p99_9, float(ms.mean()), float(ms.std() / ms.mean()), len(ms))
