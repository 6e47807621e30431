"""Calls a model until its times are steady, so that what is timed or served afterwards is not the cold first calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def warm_up(
    call: Callable[[], Any], *, window: int = 20, tolerance: float = 0.05, most_s: float = 5.0
) -> tuple[int, bool]:
    """Call until the medians of three windows in a row agree within ``tolerance``; (calls made, whether they did).

    ``most_s`` bounds it, so that a machine that never settles is still measured; its reader is then warned.
    """
    medians: list[float] = []
    until = time.perf_counter() + most_s
    while len(medians) < 3 or time.perf_counter() < until:
        times = []
        for _ in range(window):
            start = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - start)
        medians.append(float(np.median(times)))
        last = medians[-3:]
        if len(last) == 3 and max(last) <= min(last) * (1 + tolerance):
            return len(medians) * window, True
    return len(medians) * window, False
