"""Gates of real runs: the default ones each failing, what few samples cannot tell, labels drawn by chance, and what nothing judges."""

import csv
import random

import numpy as np
import pytest

from mmedge import gate, tasks
from mmedge.errors import UsageError
from mmedge.pipeline import fold as pipeline
from mmedge.pipeline.judgeable import Judged, power, unjudgeable, weak
from mmedge.progress import Silent
from mmedge.tasks import Head
from tests.conftest import parsed

ENGINE = "export-onnxruntime-cpu"


def run(values, out):
    return pipeline.run(parsed(values), out, code=out.parent, progress=Silent())


@pytest.fixture
def judged(finished, values, tmp_path):
    """``judged(gates)``: the finished run, judged again by other gates: (report, exit code)."""

    def again(gates):
        values.update(gates=gates)
        outcome = run(values, finished.whole_copy(tmp_path / "out"))
        report = outcome.report.record()
        assert {stage["status"] for stage in report["stages"]} == {"cached"}
        return report, outcome.exit_code

    return again


# For each gate that a recipe without gates gets, a limit that no model meets.
BEYOND = {
    "quality_drop_to_teacher": -1.01,
    "subset_drop.image": -1.01,
    "subset_drop.audio": -1.01,
    "subset_drop.image+audio": -1.01,
    "above_majority": 1.01,
    "above_baseline": 1.01,
}


def test_a_recipe_without_gates_gets_them_and_each_fails_with_exit_code_3_and_a_sentence(values, judged):
    values.pop("gates")
    assert set(parsed(values).limits[ENGINE]) == set(BEYOND)
    report, code = judged({ENGINE: BEYOND})
    gates = {one["name"]: one for stage in report["stages"] for one in stage["gates"] if stage["stage"] == ENGINE}
    assert code == 3 and report["verdict"] == "fail" and set(gates) == set(BEYOND)
    for name, limit in BEYOND.items():
        sign = "at least" if gate.is_minimum(name) else "at most"
        assert gates[name]["outcome"] == "fail" and not gates[name]["passed"]
        assert gates[name]["sentence"].startswith(f"{name} is ")
        assert gates[name]["sentence"].endswith(f"{sign} {limit:g} is asked: failed")
        assert gates[name]["n"] == 60 and gates[name]["method"]


def test_what_sixty_samples_cannot_tell_is_no_pass_and_the_report_has_the_baseline(judged):
    report, code = judged({})
    gates = {one["name"]: one for one in report["stages"][-2]["gates"]}
    assert code == 3 and report["verdict"] in ("fail", "cannot tell")
    drop = gates["quality_drop_to_teacher"]
    low, high = drop["bounds"]
    assert low <= drop["value"] <= high and high - low > 0.04 and not drop["passed"]
    baseline = report["baseline"]
    assert 0 < baseline["quality"]["value"] <= 1 and baseline["quality"]["n"] == 60
    assert baseline["inputs"] == {"image": "pooled pixels", "audio": "mean and deviation over time"}


def test_without_gates_nothing_is_judged_and_nothing_passes(judged):
    report, code = judged("none")
    assert code == 0 and report["verdict"] == "not judged" and not any(stage["gates"] for stage in report["stages"])


def test_the_worst_label_and_calibration_are_gates(judged):
    report, code = judged({ENGINE: {"worst_class_recall": 0.99, "ece": 0.0001}})
    gates = {one["name"]: one for one in report["stages"][-2]["gates"]}
    assert code == 3 and gates["worst_class_recall"]["outcome"] == "fail" and not gates["ece"]["passed"]


@pytest.mark.long
def test_memory_and_energy_are_measured_where_a_gate_names_them(judged):
    """Memory of a fresh process beyond that before the model was opened; energy where the machine tells it."""
    report, code = judged(
        {ENGINE: {"memory_bytes": 1e9, "energy_mj": 1e9, "above_majority": -1.0}, "quantize": {"memory_bytes": 1.0}}
    )
    gates = {(stage["stage"], one["name"]): one for stage in report["stages"] for one in stage["gates"]}
    memory, energy = gates[ENGINE, "memory_bytes"], gates[ENGINE, "energy_mj"]
    assert memory["passed"] and 1e5 < memory["value"] < 5e8
    assert energy["passed"] if "value" in energy else "was not measured" in energy["sentence"]
    assert not gates["quantize", "memory_bytes"]["passed"] and code in (3, 4)


def test_a_network_made_smaller_is_told_with_what_the_test_split_then_showed(finished):
    for stage in ("prune", "quantize"):
        notes = " ".join(finished.stage(stage)["notes"])
        assert "on the test split it loses" in notes or "its outputs on the test split are its parent's" in notes


@pytest.mark.long
def test_labels_drawn_by_chance_never_pass_whatever_the_author_forgot(media, values, tmp_path):
    """A recipe with a gate on size alone, and one without any, on labels that mean nothing."""
    with (media / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    labels = [row["label"] for row in rows]
    random.Random(3).shuffle(labels)
    for row, label in zip(rows, labels):
        row |= {"label": label, "image": str(media / row["image"]), "audio": str(media / row["audio"])}
    with (tmp_path / "chance.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    values["data"]["manifest"] = str(tmp_path / "chance.csv")
    for section in ("distill", "prune", "quantize"):
        values.pop(section)
    values["export"] = {"targets": {"onnxruntime-cpu": {}}}
    values["teacher"]["train"]["epochs"] = 1
    for gates in ({ENGINE: {"params": 1e9}}, {ENGINE: {"params": 1e9}, "policy": "point"}, {}):
        values["gates"] = gates
        outcome = run(values, tmp_path / "out")
        record = outcome.report.record()
        assert record["verdict"] != "pass" and outcome.exit_code == 3, (gates, record["stages"][-1]["gates"])
        assert any(one["name"] == "above_majority" and not one["passed"] for one in record["stages"][-1]["gates"])


HEAD = Head(task="classification", labels=("a", "b"))


def told(recipe, targets, present=None, *, learnt=True):
    there = {"image": np.ones(4, bool), "audio": np.ones(4, bool)} | (present or {})
    (name,) = recipe.data.heads
    return [
        (fault.what, fault.module)
        for fault in unjudgeable(recipe, {name: HEAD}, {name: np.array(targets)}, there, learnt=learnt)
    ]


def test_what_no_run_could_judge_is_told_with_its_place(values):
    values["gates"] = {ENGINE: {"subset.audio": 0.5, "above_baseline": 0.0}}
    recipe = parsed(values)
    assert told(recipe, [0, 1, 0, 1]) == []
    what, where = told(recipe, [-1] * 4)[0]
    assert "no test sample has a target" in what and where == f"gates.{ENGINE}.subset.audio"
    assert any("one class" in what for what, _ in told(recipe, [1, 1, -1, 1]))
    absent = told(recipe, [0, 1, 0, 1], {"audio": np.zeros(4, bool)})
    assert absent == [("a gate cannot be judged: no test sample has all of audio", f"gates.{ENGINE}.subset.audio")]
    assert "no label" in told(recipe, [0, 1, 0, 1], learnt=False)[0][0]
    values["gates"] = "none"
    assert told(parsed(values), [-1] * 4) == []


def test_a_run_whose_gates_nothing_can_judge_is_refused_before_it_trains_and_check_says_so(
    values, media, tmp_path, mmedge
):
    from tests.conftest import write_recipe

    with (media / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row |= {"image": str(media / row["image"]), "audio": str(media / row["audio"])}
        if row["split"] == "test":
            row["label"] = "7"
    with (tmp_path / "one.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    values["data"]["manifest"] = str(tmp_path / "one.csv")
    values["gates"] = {}
    with pytest.raises(UsageError, match="all labelled test samples have one class") as raised:
        run(values, tmp_path / "out")
    assert raised.value.exit_code == 2 and not (tmp_path / "out/teacher").exists()
    said = mmedge("check", write_recipe(values, tmp_path / "r.yaml"), "--out", tmp_path / "looked")
    assert said.code == 2 and "one class" in said.err and "power: with" in said.err


@pytest.mark.parametrize(
    ("task", "name"), [("multilabel", "worst_class_recall"), ("regression", "ece"), ("frames", "ece")]
)
def test_a_figure_that_a_task_lacks_is_told_with_those_that_there_are(values, task, name):
    values["data"]["task"] = task
    values["gates"] = {ENGINE: {name: 0.5}}
    with pytest.raises(UsageError, match=rf"{name}' is no figure of a {task}; it has quality, quality_drop_to_teacher"):
        parsed(values)


def test_the_limits_that_nobody_set_fit_the_task_the_heads_and_the_teacher(values):
    values.pop("gates")
    values["data"]["task"] = "regression"
    assert parsed(values).limits[ENGINE]["quality_ratio_to_teacher"] == 0.95
    assert parsed(values).limits[ENGINE]["subset_ratio.image"] == 0.95
    values["data"].pop("task")
    values["data"]["targets"] = {"kind": {}, "price": {"task": "regression"}}
    limits = parsed(values).limits[ENGINE]
    assert limits["heads.kind.quality_drop_to_teacher"] == 0.02 and limits["heads.price.above_majority"] == 0
    assert limits["heads.price.quality_ratio_to_teacher"] == 0.95 and "quality_drop_to_teacher" not in limits
    values["data"].pop("targets")
    values["distill"]["model"]["modalities"] = ["audio"]
    values["distill"]["model"]["encoders"].pop("image")
    narrow = parsed(values).limits[ENGINE]  # the teacher sees what the engine does not
    assert set(narrow) == {"quality_drop_to_parent", "above_majority", "above_baseline"}


def test_the_power_of_a_split_is_told_in_points_and_a_limit_that_it_can_never_prove_is_a_warning(values):
    values.pop("gates")
    recipe = parsed(values)
    validation, test = Judged("validation", 246, 246), Judged("test", 60, 60)
    first, second = power(recipe, validation, test)
    assert first.startswith("with 246 validation samples a drop under 3.5 points (of one modality alone 5.0) cannot")
    assert second.startswith("with 60 test samples a drop under 7.2 points")
    warned = {fault.module: fault.what for fault in weak(recipe, validation, test)}
    assert f"gates.{ENGINE}.quality_drop_to_teacher" in warned and "149 are the least" in " ".join(warned.values())
    values["gates"] = {"policy": "point"}
    assert not list(weak(parsed(values), validation, test))


def test_few_groups_tell_less_than_as_many_samples_alone():
    assert Judged("test", 100, 100).size == 100 and Judged("test", 100, 5).size < 65


def test_every_task_says_what_its_majority_is():
    for name, task in tasks.TASKS.items():
        if task.PLACED or task.CODES:
            continue  # tests/tasks/test_retrieval.py, where it is luck, test_frames.py and test_generation.py
        head = Head(task=name, labels=("a", "b", "c") if task.LABELS else ())
        targets = {"multilabel": np.array([[1, 0, 0]] * 3, np.float32), "regression": np.array([1.0, 2.0, 6.0])}
        output = task.majority(targets.get(name, np.array([2, 2, 0])), head, 4)
        assert output.shape == (4, task.width(head)) and (output == output[0]).all()
        if name in ("classification", "ordinal"):
            assert (task.chosen(output) == 2).all()
        elif name == "regression":
            assert output[0, 0] == 3
        else:
            assert output[0, 0] > 0 > output[0, 1]
