"""Gates: a pure function of figures, what is known of them, and limits."""

import math

import pytest

from mmedge import gate
from mmedge.gate import Estimate, judge


def exact(**figures):
    return {name: Estimate.exact(value) for name, value in figures.items()}


def noisy(value, low, high, n=200):
    return Estimate(value, low, high, n, "by hand")


def test_a_minimum_passes_at_its_limit_and_fails_below():
    assert judge(exact(quality=0.9), {"quality": 0.9})
    assert not judge(exact(quality=0.8999), {"quality": 0.9})


def test_a_maximum_passes_at_its_limit_and_fails_above():
    assert judge(exact(latency_p50_ms=1.0), {"latency_p50_ms": 1.0})
    assert not judge(exact(latency_p50_ms=1.01), {"latency_p50_ms": 1.0})


@pytest.mark.parametrize("figures", [{}, exact(quality=math.nan)])
def test_a_figure_that_was_not_measured_does_not_pass(figures):
    verdict = judge(figures, {"quality": 0.1})
    assert not verdict and verdict.exit_code == 3 and verdict.gates[0].outcome == "fail"


def test_exit_codes_tell_accuracy_from_cost_and_accuracy_wins():
    assert judge(exact(quality=1.0), {"quality": 0.5}).exit_code == 0
    assert judge(exact(params=9), {"params": 5}).exit_code == 4
    both = {"params": Estimate.exact(9), "subset.image": Estimate.exact(0.1)}
    assert judge(both, {"params": 5, "subset.image": 0.5}).exit_code == 3
    assert not judge(exact(params=9, quality=1.0), {"params": 5, "quality": 0.5})  # one that passed is not enough


def test_every_figure_of_the_table_is_judged_in_its_direction():
    for name, (minimum, code) in gate.FIGURES.items():
        more = {
            "subset_others": ".image.f1",
            **dict.fromkeys(("subset", "subset_drop", "subset_ratio", "others"), ".image"),
        }
        full = f"{name}{more.get(name, '')}"
        assert gate.known(full)
        good, bad = (2.0, 0.5) if minimum else (0.5, 2.0)
        assert judge({full: Estimate.exact(good)}, {full: 1.0}).exit_code == 0
        assert judge({full: Estimate.exact(bad)}, {full: 1.0}).exit_code == code


@pytest.mark.parametrize(
    "name", ["qualty", "subset", "quality.image", "latency", "heads.a.latency_p50_ms", "heads.a.gain", "heads.a.params"]
)
def test_unknown_names_are_not_gates(name):
    assert not gate.known(name)


@pytest.mark.parametrize(
    "name", ["heads.a.above_majority", "heads.a.quality_drop_to_teacher", "heads.a.ece", "subset_ratio.a+b"]
)
def test_a_head_has_the_gates_on_accuracy(name):
    assert gate.known(name)


def test_a_record_has_no_value_where_nothing_was_measured():
    (judged,) = judge({}, {"quality": 0.5}).gates
    told = judged.record()
    assert not told["passed"] and "value" not in told and "bounds" not in told and told["outcome"] == "fail"
    assert str(judged) == "quality was not measured, and at least 0.5 is asked: failed"


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.90, 0.95, "pass"), (0.86, 0.89, "fail"), (0.89, 0.93, "cannot tell"), (0.88, 0.90, "cannot tell")],
)
def test_a_limit_is_met_missed_or_cannot_be_told_by_the_bounds(low, high, outcome):
    for figure, limit in ((noisy((low + high) / 2, low, high), 0.9),):
        (judged,) = judge({"quality": figure}, {"quality": limit}).gates
        assert judged.outcome == outcome and judged.passed == (outcome == "pass")
        mirrored = noisy(-figure.value, -high, -low)
        (turned,) = judge({"quality_drop_to_teacher": mirrored}, {"quality_drop_to_teacher": -limit}).gates
        assert turned.outcome == outcome


def test_what_cannot_be_told_is_no_pass_and_says_how_many_samples_would():
    verdict = judge({"quality": noisy(0.92, 0.88, 0.95)}, {"quality": 0.9})
    (judged,) = verdict.gates
    assert verdict.exit_code == 3
    # Twice as far from the limit would do it, four times the samples; for four of five cases 2.29 times as many again.
    assert judged.needs == 1900 and "cannot tell from 200 samples: about 1,900 would" in str(judged)
    (at_it,) = judge({"quality": noisy(0.9, 0.88, 0.92)}, {"quality": 0.9}).gates
    assert at_it.outcome == "cannot tell" and at_it.needs is None


def test_more_samples_are_told_towards_the_side_that_the_figure_is_on():
    (below,) = judge({"quality": noisy(0.88, 0.80, 0.92)}, {"quality": 0.9}).gates
    assert below.outcome == "cannot tell" and below.needs == 1900


def test_by_points_a_figure_is_judged_as_if_it_had_no_noise_but_costs_and_the_guard_are_not():
    shaky = {"quality": noisy(0.92, 0.7, 0.99), "above_majority": noisy(0.1, -0.1, 0.3)}
    shaky["latency_ratio_to_teacher"] = noisy(0.49, 0.47, 0.51, None)
    limits = {"quality": 0.9, "above_majority": 0.0, "latency_ratio_to_teacher": 0.5}
    quality, guard, latency = judge(shaky, limits, "point").gates
    assert quality.passed and guard.outcome == "cannot tell" and latency.outcome == "cannot tell"


def test_the_guard_has_a_confidence_of_its_own():
    (guard, other) = judge(
        {"above_majority": noisy(0.2, 0.1, 0.3), "quality": noisy(0.9, 0.8, 1.0)}, {"above_majority": 0, "quality": 0.5}
    ).gates
    assert (guard.confidence, other.confidence) == (0.999, 0.95)


def test_a_latency_ratio_is_judged_by_all_of_its_interval():
    limits = {"latency_ratio_to_teacher": 0.5}
    inside = judge({"latency_ratio_to_teacher": noisy(0.49, 0.47, 0.5, None)}, limits)
    outside = judge({"latency_ratio_to_teacher": noisy(0.49, 0.47, 0.51, None)}, limits)
    assert inside and not outside and outside.exit_code == 4
    assert outside.gates[0].record()["bounds"] == (0.47, 0.51) and "[0.47, 0.51]" in str(outside.gates[0])


def test_power_is_what_two_models_that_are_alike_need():
    assert gate.told_apart(246) == pytest.approx(0.0354, abs=1e-3)  # 2.486 * sqrt(.05 / 246)
    assert gate.told_apart(4 * 246) == pytest.approx(gate.told_apart(246) / 2)
    assert gate.least_for(0.01) == 299 and 0.99**299 <= 0.05 < 0.99**298
