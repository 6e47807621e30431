"""Timing: percentiles of known spans, and an interleaved order. Nothing here asserts how long anything takes."""

import gc

import numpy as np
import pytest

from mmedge.profiling import timing
from mmedge.profiling.timing import balanced_orders, ratio_interval, sittings, spans, summary


def test_percentiles_of_known_spans_in_milliseconds():
    timing = summary(np.arange(1, 101, dtype=np.int64) * 1_000_000)
    assert timing.p50_ms == pytest.approx(50.5) and timing.mean_ms == pytest.approx(50.5)
    assert timing.p95_ms == pytest.approx(95.05) and timing.p99_ms == pytest.approx(99.01)
    assert timing.runs == 100 and timing.cv == pytest.approx(np.arange(1, 101).std() / 50.5)


def test_each_has_its_turn_a_round_of_which_the_first_call_is_not_timed():
    told = []
    found = spans({name: lambda name=name: told.append(name) for name in "abc"}, runs=42, warmup=2)
    assert told[:6] == list("aabbcc")
    whole, last = told[6:-9], told[-9:]  # ten rounds of turns of one and four calls, and what is left: one and two
    turns = np.array(whole).reshape(10, 3, 5)
    assert all(len(set(turn)) == 1 for round_ in turns for turn in round_)
    assert all(sorted(turn[0] for turn in round_) == ["a", "b", "c"] for round_ in turns)
    assert sorted(last) == list("aaabbbccc")
    assert {len(times) for times in found.values()} == {42} and all((times > 0).all() for times in found.values())


def test_what_is_timed_alone_is_called_no_more_often_than_asked():
    told = []
    spans({"a": lambda: told.append("a")}, runs=42, warmup=2)
    assert len(told) == 44


def test_a_call_behind_another_model_is_not_among_the_spans(monkeypatch):
    now, last = [0], [""]
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: now[0])

    def call(name):  # takes ten times as long behind another
        now[0] += 1000 if last[0] == name else 10_000
        last[0] = name

    found = spans({name: lambda name=name: call(name) for name in "ab"}, runs=30, warmup=1)
    assert {int(span) for times in found.values() for span in times} == {1000}


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_each_follows_each_other_equally_often_and_nobody_itself(count):
    orders = balanced_orders(count, 200)
    sequence = [number for order in orders for number in order]
    follows = np.zeros((count, count), int)
    np.add.at(follows, (sequence[:-1], sequence[1:]), 1)
    assert not follows.diagonal().any() and all(sorted(order) == list(range(count)) for order in orders)
    others = follows[~np.eye(count, dtype=bool)]
    assert others.max() - others.min() <= max(2, 0.1 * others.mean())


def test_models_are_opened_anew_for_each_sitting_and_none_is_always_the_first():
    opened, alive = [], set()

    def opener(name):
        def open_():
            class Call:
                def __init__(self):
                    alive.add(id(self))

                def __call__(self):
                    pass

                def __del__(self):
                    alive.discard(id(self))

            opened.append(name)
            assert len(alive) < 2  # those of the sitting before are gone
            return Call()

        return open_

    taken = sittings({name: opener(name) for name in "ab"}, runs=80, warmup=8)
    assert opened == list("abbaabbaabbaabba") and [len(each) for each in taken["a"]] == [10] * 8
    assert [len(each) for each in sittings({"a": lambda: lambda: None}, runs=22, warmup=8)["a"]] == [5, 6, 5, 6]


def of_sessions(random, level, count=8, runs=60):
    """Spans as a machine gives them: each session is faster or slower by some percent as long as it lives."""
    sessions = level * np.exp(random.normal(0, 0.03, (count, 1)))
    return list((sessions * np.exp(random.normal(0, 0.05, (count, runs))) * 1e5).astype(np.int64))


def test_identical_models_are_called_faster_in_at_most_5_of_100():
    random = np.random.default_rng(0)
    found = [ratio_interval(of_sessions(random, 1.0), of_sessions(random, 1.0)) for _ in range(400)]
    assert sum(high < 1 for _, high in found) <= 0.05 * 400
    assert sum(low > 1 for low, _ in found) <= 0.05 * 400


def test_a_model_that_is_a_tenth_faster_is_called_so():
    random = np.random.default_rng(1)
    found = [ratio_interval(of_sessions(random, 0.9), of_sessions(random, 1.0)) for _ in range(100)]
    assert sum(high < 1 for _, high in found) > 95
    assert sum(low < 0.9 < high for low, high in found) >= 90


def test_what_was_timed_once_is_as_fast_as_itself():
    spans_ = of_sessions(np.random.default_rng(2), 1.0)
    assert ratio_interval(spans_, spans_) == (1.0, 1.0)


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_percentiles_have_intervals_between_sittings_alone_and_as_ratios(percent):
    random = np.random.default_rng(3)
    taken = [summary(of_sessions(random, 1.0)) for _ in range(60)]
    truth = summary(of_sessions(np.random.default_rng(4), 1.0, 4000)[:]).record()[f"p{percent}_ms"]
    ends = [getattr(timing, f"p{percent}_ms_ci95") for timing in taken]
    assert np.mean([low <= truth * 1.01 and truth * 0.99 <= high for low, high in ends]) >= 0.9
    pairs = [(of_sessions(random, 1.0), of_sessions(random, 1.0)) for _ in range(60)]
    assert np.mean([ratio_interval(*pair, percent)[1] < 1 for pair in pairs]) <= 0.1
    assert summary(np.arange(1, 9)).p50_ms_ci95 is None  # one sitting tells nothing of others


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


def test_a_wide_spread_is_told_of():
    assert timing.disturbed(0.3) == []
    (note,) = timing.disturbed(0.31)
    assert "cv 0.31" in note and "the machine was busy" in note
