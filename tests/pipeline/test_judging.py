"""The figures that gates judge, with small numbers worked out by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mmedge import gate
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.pipeline import measuring
from mmedge.pipeline.evidence import Evidence, Side
from mmedge.pipeline.judging import Judging, verdict_of
from mmedge.recipe.gates import Gates, default_limits
from mmedge.report.schema import ControlRecord, GateRecord, LatencyRecord, StageRecord
from mmedge.spec import ArraySpec
from mmedge.stages.results import ComparedRecord
from mmedge.tasks import Head
from mmedge.tasks.head import Target
from tests.heads import samples

N = 100
SPEC = ArraySpec(kind="array", shape=(1,))
CONTRACT = Contract(modalities={"a": SPEC, "b": SPEC}, heads={"logits": Head(task="classification", labels=("x", "y"))})
TARGETS = np.arange(N) % 2
TEST = samples(
    "test",
    tuple(f"s{row}" for row in range(N)),
    {"a": np.zeros((N, 1)), "b": np.zeros((N, 1))},
    np.ones((N, 2), bool),
    TARGETS,
    np.arange(N),
    head=CONTRACT.heads["logits"],
)


def side(whole, alone):
    """Who is right in the first so many rows, with both modalities, and where one is absent."""

    def predict(present):
        right = np.arange(N) < N * np.where(present.all(axis=1), whole, alone)
        return {"logits": 2.0 * np.eye(2)[np.where(right, TARGETS, 1 - TARGETS)]}

    return Side(CONTRACT, TEST, predict)


def stage(name, role, *, controls=()):
    return SimpleNamespace(
        stage=name,
        step=SimpleNamespace(row=SimpleNamespace(role=role)),
        artifact=SimpleNamespace(sha256=name),
        result=SimpleNamespace(misses=[], controls=dict.fromkeys(controls)),
    )


def record(sha256, parent, *, params, macs, **more):
    size = {"params": params, "macs": macs, "size_bytes": 4 * params}
    return StageRecord(stage=sha256, status="ran", sha256=sha256, parent=parent, **size, **more)


def control(name, gain, gain_ci95, seeds=3):
    return ControlRecord.model_construct(name=name, gain=gain, gain_ci95=gain_ci95, seeds=seeds)


SIDES = {"T": side(0.8, 0.5), "S": side(0.9, 0.6), "P": side(0.8, 0.45), "Q": side(0.72, 0.4)}


def judging_of(ran, records, controls=(), limits=None, *, own=True):
    evidence = Evidence(lambda done: SIDES[done.stage], TEST, lambda contract: side(0.7, 0.7).predict(TEST.present))
    return Judging(ran, records, controls, limits or {}, evidence, own=own)


@pytest.fixture
def judging():
    """A teacher, its student, the student pruned, and that one quantized."""
    ran = [
        stage("T", "teacher"),
        stage("S", "student", controls=["no-distillation"]),
        stage("P", "smaller"),
        stage("Q", "smaller"),
    ]
    ratios = {
        "ratio_to_teacher": 0.1,
        "ratio_to_parent": 0.4,
        "ratio_to_parent_ci95": (0.3, 0.5),
        "p99_ratio_to_parent": 0.45,
    }
    latency = LatencyRecord.model_construct(p50_ms=0.5, p95_ms=0.7, **ratios)
    records = [
        record("T", None, params=1000, macs=8000),
        record("S", "T", params=100, macs=400),
        record("P", "S", params=80, macs=200),
        record("Q", "P", params=40, macs=50, latency=latency),
    ]
    controls = [control("alone-a", 0.5, (0.4, 0.6)), control("no-distillation", 0.03, (-0.01, 0.07))]
    return judging_of(ran, records, controls)


def value(judging, number, name):
    found = judging.figures(judging.ran[number], judging.records[number], [name])
    return found[name].value if name in found else None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("quality", 0.72),
        ("subset.a", 0.4),
        ("quality_ratio_to_teacher", 0.9),
        ("quality_drop_to_teacher", 0.08),
        ("quality_drop_to_parent", 0.08),
        ("above_majority", 0.22),
        ("above_baseline", 0.02),
        ("worst_class_recall", 0.72),
        ("size_bytes", 160),
        ("params_ratio_to_teacher", 0.04),
        ("params_ratio_to_parent", 0.5),
        ("macs_ratio_to_parent", 0.25),
        ("latency_p95_ms", 0.7),
        ("latency_ratio_to_teacher", 0.1),
        ("latency_ratio_to_parent", 0.4),
        ("latency_p99_ratio_to_parent", 0.45),
    ],
)
def test_every_figure_is_the_own_one_against_the_other_on_the_same_samples(judging, name, expected):
    assert value(judging, 3, name) == pytest.approx(expected)


def test_what_a_subset_lost_is_against_the_unpruned_student(judging):
    """.6 of the student less .4: not against the parent, which had .45, and not against the teacher, which had .5."""
    assert value(judging, 3, "subset_drop.a") == pytest.approx(0.2)
    assert value(judging, 3, "subset_drop.a+b") == pytest.approx(0.18)
    assert value(judging, 3, "subset_ratio.a") == pytest.approx(0.4 / 0.6)


def test_without_a_student_it_is_against_the_teacher(judging):
    one = judging_of([judging.ran[0], judging.ran[3]], [judging.records[0], judging.records[3]])
    assert value(one, 1, "subset_drop.a") == pytest.approx(0.1)


def test_a_difference_has_bounds_over_the_same_samples_and_a_latency_those_between_sittings(judging):
    found = judging.figures(judging.ran[3], judging.records[3], ["quality_drop_to_teacher", "latency_ratio_to_parent"])
    drop, latency = found["quality_drop_to_teacher"], found["latency_ratio_to_parent"]
    assert drop.low < 0.08 < drop.high < 0.15 and drop.n == N and "Tango" in drop.method
    assert (latency.low, latency.high) == (0.3, 0.5)


def test_the_gain_is_that_over_no_distillation_and_of_the_stage_that_it_is_about(judging):
    found = judging.figures(judging.ran[1], judging.records[1], ["gain", "gain_ci95_low"])
    assert (found["gain"].value, found["gain_ci95_low"].value) == (0.03, -0.01)
    assert (found["gain"].low, found["gain"].high) == (-0.01, 0.07)
    assert value(judging, 2, "gain") is None


def test_of_one_seed_a_gain_cannot_be_told(judging):
    one = judging_of(
        judging.ran, judging.records, [control("no-distillation", 0.5, (0.4, 0.6), seeds=1)], {"S": {"gain": 0.1}}
    )
    (gate,), code = one.judge(one.ran[1], one.records[1])
    assert gate.outcome == "cannot tell" and code == 3 and "three would tell" in gate.sentence


def test_a_teacher_measured_on_other_samples_is_compared_on_those_that_both_have(judging, monkeypatch):
    late = SIDES["P"].predict(TEST.present)["logits"][60:]
    fewer = SIDES["T"].samples.taken(np.arange(60, 100))
    monkeypatch.setitem(SIDES, "T", Side(CONTRACT, fewer, lambda present: {"logits": late}))
    found = judging.figures(judging.ran[3], judging.records[3], ["quality_drop_to_teacher"])
    assert found["quality_drop_to_teacher"].n == 40 and found["quality_drop_to_teacher"].value == pytest.approx(8 / 40)


def test_limits_that_nobody_set_are_left_out_where_there_is_no_figure_and_those_of_the_author_fail(judging):
    limits = {"Q": {"quality": 0.5, "subset_drop.c": 0.1}}
    mine, default = (judging_of(judging.ran, judging.records, (), limits, own=own) for own in (True, False))
    assert [gate.name for gate in default.judge(default.ran[3], default.records[3])[0]] == ["quality"]
    gates, code = mine.judge(mine.ran[3], mine.records[3])
    assert [gate.passed for gate in gates] == [True, False] and code == 3


def test_by_points_the_figure_alone_decides_but_never_the_guard(judging):
    limits = {"P": {"quality": 0.79, "quality_drop_to_parent": 0.11, "above_majority": 0.29}}
    strict, point = (
        replace(judging_of(judging.ran, judging.records, (), limits), how=Gates(policy=policy))
        for policy in ("strict", "point")
    )
    found = [[gate.outcome for gate in one.judge(one.ran[2], one.records[2])[0]] for one in (strict, point)]
    assert found == [["cannot tell"] * 3, ["pass", "pass", "cannot tell"]]


def test_what_failed_weighs_more_than_what_cannot_be_told():
    gates = {
        word: GateRecord(name="quality", limit=0, passed=word == "pass", outcome=word)
        for word in ("pass", "fail", "cannot tell")
    }
    assert verdict_of(list(gates.values())) == "fail"
    assert verdict_of([gates["pass"], gates["cannot tell"]]) == "cannot tell"
    assert verdict_of([gates["pass"]]) == "pass" and verdict_of([]) == "not judged"


def test_a_control_is_what_the_gain_is_over_and_the_taught_student_is_not(monkeypatch):
    """Ours are the students that it is held against, in the order of their seeds, theirs its own."""
    monkeypatch.setattr(measuring, "contract_of", lambda artifact: SimpleNamespace(modalities={"a": None}))
    monkeypatch.setattr(measuring, "module_run", lambda module: module)
    monkeypatch.setattr(measuring, "graph_predictor", lambda run, *_: lambda present: run)
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


HEADS = {"kind": Head(task="classification", labels=("x", "y")), "price": Head(task="regression")}
PRICES = np.linspace(-1, 1, N)


def of_two(good):
    """A network of two heads, with all modalities and with some; what is bad is wrong on nearly all samples."""
    inputs = {"a": np.zeros((N, 1)), "b": np.zeros((N, 1))}
    known = {"kind": TARGETS, "price": PRICES}
    both = Samples("test", TEST.ids, inputs, TEST.present, known, TEST.groups, HEADS)
    right = np.arange(N) < N * (0.9 if good else 0.1)
    kinds = 2.0 * np.eye(2)[np.where(right, TARGETS, 1 - TARGETS)]
    outputs = {"kind": kinds, "price": (PRICES if good else -PRICES)[:, None] + 0.1 * np.cos(np.arange(N))[:, None]}
    return Side(Contract(modalities=CONTRACT.modalities, heads=HEADS), both, lambda present: outputs)


@pytest.mark.parametrize("against", ["teacher", "parent"])
@pytest.mark.parametrize("chosen", [["kind"], ["price"], ["kind", "price"]])
def test_each_limit_that_nobody_set_fails_at_its_own_value_with_exit_code_3_and_a_sentence(against, chosen):
    """Shares and other figures, of one head and of several, against the teacher and against the parent."""
    targets = {name: Target(task=HEADS[name].task) for name in chosen}
    limits = default_limits(["Q"], targets, ("a", "b"), against)
    heads = {name: HEADS[name] for name in chosen}

    def side(done):
        found = of_two(done.stage != "Q")
        contract = found.contract.model_copy(update={"heads": heads})
        samples = replace(found.samples, heads=heads, targets={name: found.samples.targets[name] for name in chosen})
        return Side(contract, samples, found.predict)

    ran = [stage("T", "teacher"), stage("S", "student"), stage("Q", "engine")]
    records = [record(name, parent, params=1, macs=1) for name, parent in (("T", None), ("S", "T"), ("Q", "S"))]
    good = of_two(True)
    evidence = Evidence(side, side(ran[0]).samples, lambda contract: good.predict(good.samples.present))
    gates, code = Judging(ran, records, [], limits, evidence, own=False).judge(ran[2], records[2])
    assert [gate.name for gate in gates] == list(limits["Q"]) and code == 3
    for judged in gates:
        assert judged.outcome == "fail" and judged.limit in (0.02, 0.95, 0.0) and judged.method, judged
        sign = "at least" if gate.is_minimum(judged.name) else "at most"
        assert judged.sentence.startswith(f"{judged.name} is ")
        assert judged.sentence.endswith(f"], {sign} {judged.limit:g} is asked: failed")
    assert verdict_of(gates) == "fail"
