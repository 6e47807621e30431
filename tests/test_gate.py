"""Gates: a pure function of figures and limits."""

import math

import pytest

from mmedge import gate


def test_a_minimum_passes_at_its_limit_and_fails_below():
    assert gate.judge({"quality": 0.9}, {"quality": 0.9})
    assert not gate.judge({"quality": 0.8999}, {"quality": 0.9})


def test_a_maximum_passes_at_its_limit_and_fails_above():
    assert gate.judge({"latency_p50_ms": 1.0}, {"latency_p50_ms": 1.0})
    assert not gate.judge({"latency_p50_ms": 1.01}, {"latency_p50_ms": 1.0})


@pytest.mark.parametrize("figures", [{}, {"quality": math.nan}])
def test_a_figure_that_was_not_measured_does_not_pass(figures):
    verdict = gate.judge(figures, {"quality": 0.1})
    assert not verdict and verdict.exit_code == 3


def test_exit_codes_tell_accuracy_from_cost_and_accuracy_wins():
    assert gate.judge({"quality": 1.0}, {"quality": 0.5}).exit_code == 0
    assert gate.judge({"params": 9}, {"params": 5}).exit_code == 4
    assert gate.judge({"params": 9, "subset.image": 0.1}, {"params": 5, "subset.image": 0.5}).exit_code == 3
    assert not gate.judge({"params": 9, "quality": 1.0}, {"params": 5, "quality": 0.5})  # one that passed is not enough


def test_every_figure_of_the_table_is_judged_in_its_direction():
    for name, (minimum, code) in gate.FIGURES.items():
        full = f"{name}.image" if name in ("subset", "subset_drop") else name
        assert gate.known(full)
        good, bad = (2.0, 0.5) if minimum else (0.5, 2.0)
        assert gate.judge({full: good}, {full: 1.0}).exit_code == 0
        assert gate.judge({full: bad}, {full: 1.0}).exit_code == code


@pytest.mark.parametrize("name", ["qualty", "subset", "quality.image", "latency"])
def test_unknown_names_are_not_gates(name):
    assert not gate.known(name)


def test_a_record_has_no_value_where_nothing_was_measured():
    (judged,) = gate.judge({}, {"quality": 0.5}).gates
    assert judged.record() == {"name": "quality", "limit": 0.5, "passed": False}
    assert "not measured" in str(judged)


def test_a_latency_ratio_is_judged_by_all_of_its_interval():
    limits, figure = {"latency_ratio_to_teacher": 0.5}, {"latency_ratio_to_teacher": 0.49}
    inside = gate.judge(figure, limits, {"latency_ratio_to_teacher": (0.47, 0.5)})
    outside = gate.judge(figure, limits, {"latency_ratio_to_teacher": (0.47, 0.51)})
    assert inside and not outside and outside.exit_code == 4
    assert outside.gates[0].record()["ci95"] == (0.47, 0.51) and "[0.47, 0.51]" in str(outside.gates[0])
    assert not gate.judge({"quality": 0.9}, {"quality": 0.9}, {"quality": (0.89, 0.91)})
