"""The figures that gates judge, with small numbers worked out by hand."""

from types import SimpleNamespace

import pytest

from mmedge.pipeline import measuring
from mmedge.pipeline.judging import Judging
from mmedge.report.schema import ControlRecord, LatencyRecord, StageRecord
from mmedge.stages.results import ComparedRecord


def stage(role, *, controls=()):
    row = SimpleNamespace(role=role)
    return SimpleNamespace(
        stage=role,
        step=SimpleNamespace(row=row),
        artifact="there",
        result=SimpleNamespace(misses=[], controls=dict.fromkeys(controls)),
    )


def record(sha256, parent, quality, subsets, *, params, macs, **more):
    figures = {"metric": "accuracy", "value": quality, "ci95": (0, 1), "n": 100, "groups": 100, "split": "test"}
    return StageRecord(
        stage=sha256,
        status="ran",
        sha256=sha256,
        parent=parent,
        quality=figures | {"others": {}},
        subsets=subsets,
        params=params,
        macs=macs,
        size_bytes=4 * params,
        **more,
    )


def control(name, gain, gain_ci95):
    return ControlRecord.model_construct(name=name, gain=gain, gain_ci95=gain_ci95)


@pytest.fixture
def judging():
    """A teacher, its student, the student pruned, and that one quantized."""
    ran = [stage("teacher"), stage("student", controls=["no-distillation"]), stage("smaller"), stage("smaller")]
    ratios = {"ratio_to_teacher": 0.1, "ratio_to_parent": 0.4}
    latency = LatencyRecord.model_construct(p50_ms=0.5, p95_ms=0.7, **ratios)
    records = [
        record("T", None, 0.8, {"a": 0.5, "a+b": 0.8}, params=1000, macs=8000),
        record("S", "T", 0.9, {"a": 0.6, "a+b": 0.9}, params=100, macs=400),
        record("P", "S", 0.8, {"a": 0.45, "a+b": 0.8}, params=80, macs=200),
        record("Q", "P", 0.72, {"a": 0.4, "a+b": 0.72}, params=40, macs=50, latency=latency),
    ]
    controls = [
        control("alone-a", 0.5, (0.4, 0.6)),
        control("no-distillation", 0.03, (-0.01, 0.07)),
    ]
    return Judging(ran, records, controls, {})


def test_ratios_are_over_the_teacher_and_over_the_parent_each_the_own_figure_above(judging):
    found = judging.figures(judging.ran[3], judging.records[3])
    assert found["quality"] == 0.72 and found["size_bytes"] == 160 and found["subset.a"] == 0.4
    assert found["quality_ratio_to_teacher"] == pytest.approx(0.9)
    assert found["params_ratio_to_teacher"] == pytest.approx(0.04)
    assert found["params_ratio_to_parent"] == pytest.approx(0.5)
    assert found["macs_ratio_to_parent"] == pytest.approx(0.25)
    assert found["latency_p95_ms"] == 0.7 and found["latency_ratio_to_teacher"] == 0.1
    assert found["latency_ratio_to_parent"] == 0.4


def test_what_a_subset_lost_is_against_the_unpruned_student(judging):
    """.6 of the student less .4: not against the parent, which had .45, and not against the teacher, which had .5."""
    found = judging.figures(judging.ran[3], judging.records[3])
    assert found["subset_drop.a"] == pytest.approx(0.2) and found["subset_drop.a+b"] == pytest.approx(0.18)


def test_without_a_student_it_is_against_the_teacher(judging):
    ran, records = [judging.ran[0], judging.ran[3]], [judging.records[0], judging.records[3]]
    assert Judging(ran, records, [], {}).figures(ran[1], records[1])["subset_drop.a"] == pytest.approx(0.1)


def test_the_gain_is_that_over_no_distillation_and_of_the_stage_that_it_is_about(judging):
    found = judging.figures(judging.ran[1], judging.records[1])
    assert (found["gain"], found["gain_ci95_low"]) == (0.03, -0.01)
    assert "gain" not in judging.figures(judging.ran[2], judging.records[2])


def test_a_teacher_measured_on_other_samples_gives_no_ratio_of_quality(judging):
    teacher = judging.records[0]
    fewer = teacher.quality.model_copy(update={"n": 99})
    judging.records[0] = teacher.model_copy(update={"quality": fewer})
    assert "quality_ratio_to_teacher" not in judging.figures(judging.ran[3], judging.records[3])


def test_a_control_is_what_the_gain_is_over_and_the_taught_student_is_not(monkeypatch):
    """Ours are the students that it is held against, in the order of their seeds, theirs its own."""
    monkeypatch.setattr(measuring, "contract_of", lambda artifact: SimpleNamespace(modalities={"a": None}))
    monkeypatch.setattr(measuring, "predict_module", lambda module, *_: module)
    monkeypatch.setattr(
        measuring, "gain", lambda contract, ours, theirs, test, **_: SimpleNamespace(record=lambda: (ours, theirs))
    )
    split = SimpleNamespace(only=lambda names: SimpleNamespace(present=None))
    context = SimpleNamespace(
        dataset=SimpleNamespace(test=split),
        rebuild=lambda artifact, file: file.partition("/")[0],
        recipe=SimpleNamespace(measure=SimpleNamespace(bootstrap=100), seed=0),
    )
    students = ["control-0", "distilled-0", "control-1", "distilled-1"]
    compared = ComparedRecord(students="control", against="distilled", shown=None)
    ours, theirs = measuring._compare(None, students, "no-distillation", compared, context)
    assert ours == ["distilled-0", "distilled-1"] and theirs == ["control-0", "control-1"]
