"""Latency, honestly: warmed up, interleaved, with percentiles and spread. The one place where anything is timed."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from mmedge.frozen import Record

Name = TypeVar("Name", bound=Hashable)
# Spans of a model that was opened anew for each: int64 [runs of the sitting] in nanoseconds.
Sittings = list[np.ndarray]

# How often models are opened anew for one comparison, and the fewest calls of one sitting.
_SITTINGS, _FEWEST = 8, 5
# A spread above this share of the mean is told of.
WIDE_SPREAD = 0.3
# Timed calls of a model before it is the next one's turn.
_TURN = 4
# Student's t at 97.5 %, by degrees of freedom.
PERCENTILES = (50, 95, 99)
_STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}


class Timing(Record):
    """Milliseconds of a call."""

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p99_9_ms: float
    mean_ms: float
    cv: float = Field(
        description="Spread: the standard deviation over the mean; above 0.3 the machine was busy or throttled."
    )
    runs: int
    p50_ms_ci95: tuple[float, float] | None = Field(None, description="95 % intervals between sittings.")
    p95_ms_ci95: tuple[float, float] | None = None
    p99_ms_ci95: tuple[float, float] | None = None


def spans(
    calls: Mapping[Name, Callable[[], Any]],
    *,
    runs: int,
    warmup: int,
    step: Callable[[int, int], None] = lambda done, total: None,
    seed: int = 0,
) -> dict[Name, np.ndarray]:
    """Time each call ``runs`` times, a few of each in turn, since machines drift and ratios are judged. int64 [runs], ns.

    A turn begins with a call that is not timed: behind another model it finds the caches full of that one's weights,
    which an app that runs one model never does. Each follows each other equally often, for what is left of that.
    ``step(done, total)`` is told of progress, outside the timed spans. Garbage collection is off while timing.
    """
    for call in calls.values():
        for _ in range(warmup):
            call()
    # All is made ready beforehand: what stands between two timed calls takes their caches from them.
    each, taken = list(calls.values()), [[0] * runs for _ in calls]
    turns = [range(first, min(first + _TURN, runs)) for first in range(0, runs, _TURN)]
    orders = balanced_orders(len(each), len(turns), seed)
    clock, collecting = time.perf_counter_ns, gc.isenabled()
    gc.disable()
    try:
        for turn, order in zip(turns, orders):
            for position in order:
                call, own = each[position], taken[position]
                if len(each) > 1:
                    call()
                for index in turn:
                    start = clock()
                    call()
                    own[index] = clock() - start
            if turn.stop // 100 > turn.start // 100:
                step(turn.stop, runs)
    finally:
        if collecting:
            gc.enable()
    return {name: np.array(times, np.int64) for name, times in zip(calls, taken)}


def balanced_orders(count: int, rounds: int, seed: int = 0) -> list[list[int]]:
    """An order of 0 to ``count`` - 1 for each round, so that over all of them each follows each other equally often.

    Of what is left of a round comes next who has followed the last one least often, by lot among equals; nobody follows
    itself.
    """
    lot = random.Random(seed)
    followed = [[rounds + 1 if row == column else 0 for column in range(count)] for row in range(count)]
    orders, last = [], lot.randrange(max(count, 1))
    for _ in range(rounds):
        left, order = list(range(count)), []
        while left:
            behind = followed[last]
            least = min(behind[candidate] for candidate in left)
            last = lot.choice([candidate for candidate in left if behind[candidate] == least])
            behind[last] += 1
            left.remove(last)
            order.append(last)
        orders.append(order)
    return orders


def sittings(
    openers: Mapping[Name, Callable[[], Callable[[], Any]]],
    *,
    runs: int,
    warmup: int,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Name, Sittings]:
    """``spans`` of models that are opened anew several times, together ``runs`` of each.

    Where a session's memory happens to lie makes it faster or slower as long as it lives: two sessions of one file differ
    by more than the spread of their calls. How much, only several sessions of each tell. ``warmup`` is of all sittings.
    """
    count = max(2, min(_SITTINGS, runs // _FEWEST))
    before = max(3, -(-warmup // count))
    taken: dict[Name, Sittings] = {name: [] for name in openers}
    for sitting in range(count):
        names = list(openers)
        turned = names[sitting % len(names) :] + names[: sitting % len(names)] if names else names
        calls = {name: openers[name]() for name in turned}
        each = runs * (sitting + 1) // count - runs * sitting // count
        found = spans(calls, runs=each, warmup=before, seed=sitting)
        del calls  # before the next are opened
        for name, times in found.items():
            taken[name].append(times)
        step(sitting + 1, count)
    return taken


def ratio_interval(ours: Sittings, theirs: Sittings, percent: float = 50) -> tuple[float, float]:
    """95 % interval of the ratio of two models' percentiles of spans, medians unless told, each of the same ``sittings``.

    Each sitting gives one ratio of medians; Student's interval of the mean of their logarithms holds what differs between
    sessions and between moments of the machine. Of higher percentiles one sitting has too few spans: all but one give a
    value each (the jackknife). The spans of one file, timed once, are a ratio of 1 without doubt.
    """
    if ours is theirs:
        return 1.0, 1.0
    pooled = float(np.log(percentile_ns(ours, percent) / percentile_ns(theirs, percent)))
    if percent == 50:
        logs = np.log([np.median(mine) / np.median(other) for mine, other in zip(ours, theirs)])
        return _student(float(logs.mean()), float(logs.std(ddof=1)) / len(logs) ** 0.5, len(logs), pooled)
    others = [np.log(_left_out(ours, n, percent) / _left_out(theirs, n, percent)) for n in range(len(ours))]
    return _student(pooled, _jackknifed(others), len(ours), pooled)


def _student(middle: float, deviation: float, count: int, pooled: float) -> tuple[float, float]:
    """Student's interval of a logarithm, of ``count`` sittings, as it was before; the figure that is told lies inside."""
    half = _STUDENT[count - 1] * deviation
    return float(np.exp(min(middle - half, pooled))), float(np.exp(max(middle + half, pooled)))


def _left_out(taken: Sittings, number: int, percent: float) -> float:
    """A percentile over all sittings but one."""
    return percentile_ns([each for other, each in enumerate(taken) if other != number], percent)


def _jackknifed(values: list[float]) -> float:
    """The standard deviation of a figure of all sittings, of its values with each left out (Efron & Stein 1981)."""
    count = len(values)
    return float(((count - 1) / count * ((np.array(values) - np.mean(values)) ** 2).sum()) ** 0.5)


def median_ns(taken: Sittings) -> float:
    """The median over all sittings."""
    return percentile_ns(taken, 50)


def percentile_ns(taken: Sittings, percent: float) -> float:
    """A percentile over all sittings."""
    return float(np.percentile(np.concatenate(taken), percent))


def _between_sittings(taken: np.ndarray | Sittings) -> dict[str, tuple[float, float]]:
    """The intervals of the percentiles, in milliseconds, where there are several sittings."""
    if not isinstance(taken, list) or not 1 < len(taken) <= len(_STUDENT) + 1:
        return {}
    found = {}
    for percent in PERCENTILES:
        pooled = float(np.log(percentile_ns(taken, percent) / 1e6))
        others = [np.log(_left_out(taken, number, percent)) for number in range(len(taken))]
        found[f"p{percent}_ms_ci95"] = _student(pooled, _jackknifed(others), len(taken), pooled)
    return found


def disturbed(cv: float) -> list[str]:
    """A note where spans with the spread ``cv`` were taken on a machine at other work."""
    if cv <= WIDE_SPREAD:
        return []
    return [
        f"latency spread is wide (cv {cv:.2f}): the machine was busy; single figures may not hold, and ratios between a model that fits the"
        " caches and one that does not suffer, too"
    ]


def summary(nanoseconds: np.ndarray | Sittings) -> Timing:
    """Percentiles of measured spans."""
    ms = np.concatenate(nanoseconds) / 1e6 if isinstance(nanoseconds, list) else nanoseconds / 1e6
    p50, p90, p95, p99, p99_9 = (float(value) for value in np.percentile(ms, [50, 90, 95, 99, 99.9]))
    return Timing(
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        p99_9_ms=p99_9,
        mean_ms=float(ms.mean()),
        cv=float(ms.std() / ms.mean()),
        runs=ms.size,
        **_between_sittings(nanoseconds),
    )
