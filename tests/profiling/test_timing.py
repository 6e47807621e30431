"""Timing: percentiles of known spans, and an interleaved order. Nothing here asserts how long anything takes."""

import gc

import numpy as np
import pytest

from mmedge.profiling.timing import spans, summary


def test_percentiles_of_known_spans_in_milliseconds():
    timing = summary(np.arange(1, 101, dtype=np.int64) * 1_000_000)
    assert timing.p50_ms == pytest.approx(50.5) and timing.mean_ms == pytest.approx(50.5)
    assert timing.p95_ms == pytest.approx(95.05) and timing.p99_ms == pytest.approx(99.01)
    assert timing.runs == 100 and timing.cv == pytest.approx(np.arange(1, 101).std() / 50.5)


def test_every_call_runs_once_a_round_and_the_order_of_rounds_is_permuted():
    told = []
    found = spans({name: lambda name=name: told.append(name) for name in "abc"}, runs=40, warmup=2)
    rounds = np.array(told[6:]).reshape(40, 3)
    assert told[:6] == list("aabbcc")
    assert all(sorted(row) == ["a", "b", "c"] for row in rounds)
    assert len({tuple(row) for row in rounds}) == 6
    assert {len(times) for times in found.values()} == {40}


def test_garbage_collection_is_off_while_timing_and_on_again_after_an_error():
    seen = []

    def fail():
        seen.append(gc.isenabled())
        if len(seen) == 3:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        spans({"a": fail}, runs=5, warmup=1)
    assert seen == [True, False, False] and gc.isenabled()


def test_progress_is_told_every_hundred_rounds():
    told = []
    spans({"a": lambda: None}, runs=200, warmup=1, step=lambda done, total: told.append((done, total)))
    assert told == [(100, 200), (200, 200)]
