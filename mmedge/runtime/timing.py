"""Latency, honestly: warmed up, interleaved, with percentiles and spread. The one place where anything is timed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a call. ``cv``: standard deviation over mean; above 0.3 the machine was busy or throttled."""

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    cv: float
    runs: int

    def record(self) -> dict[str, Any]:
        return asdict(self)


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    *,
    runs: int,
    warmup: int,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Timing]:
    """Time each call ``runs`` times, one of each a round, since machines drift and ratios are judged.

    Each round has an order of its own: in a fixed one, whoever follows a large model would always find its caches cold.
    ``step(done, total)`` is told of progress, outside the timed spans. Garbage collection is off while timing.
    """
    spans = {name: np.empty(runs, np.int64) for name in calls}
    for call in calls.values():
        for _ in range(warmup):
            call()
    names, orders = list(calls), np.random.default_rng(0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for index in range(runs):
            for position in orders.permutation(len(names)):
                name = names[position]
                call = calls[name]
                start = time.perf_counter_ns()
                call()
                spans[name][index] = time.perf_counter_ns() - start
            if index % 100 == 99:
                step(index + 1, runs)
    finally:
        if collecting:
            gc.enable()
    return {name: summary(times) for name, times in spans.items()}


def summary(nanoseconds: np.ndarray) -> Timing:
    """Percentiles of measured spans, int64 [runs] in nanoseconds."""
    ms = nanoseconds / 1e6
    p50, p90, p95, p99 = (float(value) for value in np.percentile(ms, [50, 90, 95, 99]))
    return Timing(p50, p90, p95, p99, float(ms.mean()), float(ms.std() / ms.mean()), len(ms))
