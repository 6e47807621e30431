"""What ``check`` finds of teachers, hints and labels before anything is trained."""

import numpy as np
import pytest

from mmedge import artifact
from mmedge.contract import Contract
from tests.data.made import five_kinds, recipe_values, write_table
from tests.looked import look, of


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return five_kinds(folder), folder


def onnx_file(path, width=2, batch="n", name="motion"):
    """A linear model of the series, written by hand: [n, 2, 40] to [n, width]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Flatten", [name], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 2, 40])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, width])],
        [numpy_helper.from_array(np.ones((80, width), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return str(path)


def teaching(manifest, **sections):
    """The faults of a recipe whose teacher and distill sections are changed, the table alone being looked at."""
    values = recipe_values(manifest)
    values["teacher"] |= sections.get("teacher", {})
    values["distill"] |= sections.get("distill", {})
    return look(manifest, media=False, model=values)


def test_an_onnx_teacher_that_is_not_there_or_does_not_fit_is_told(whole, tmp_path):
    manifest, only = whole[0], {"modalities": ["motion"]}

    def fault(**teacher):
        (found,) = of(teaching(manifest, teacher=teacher), "teacher")
        return found

    assert "does not exist" in fault(onnx=str(tmp_path / "none.onnx"), model=only)["what"]
    file = onnx_file(tmp_path / "t.onnx", 2, name="series")
    assert "it has series" in fault(onnx=file, model=only)["what"]
    renamed = only | {"inputs": {"motion": "series"}}
    assert not of(teaching(manifest, teacher={"onnx": file, "model": renamed}), "teacher")
    file = onnx_file(tmp_path / "t.onnx", 3)
    found = fault(onnx=file, model=only)
    assert (
        "shape [2, 3] for a batch of 2; the classes need [2, 2]" in found["what"] and "teacher.classes" in found["todo"]
    )
    classes = {"blossom": "flower", "house": "tempel", "car": None}
    found = fault(onnx=file, model=only, classes=classes)
    assert "no class 'tempel' (did you mean 'temple'?)" in found["what"] and found["severity"] == "error"
    assert not of(
        teaching(manifest, teacher={"onnx": file, "model": only, "classes": classes | {"house": "temple"}}), "teacher"
    )
    assert "fixed to 1" in fault(onnx=onnx_file(tmp_path / "t.onnx", 2, batch=1), model=only)["what"]


def test_a_file_of_outputs_is_looked_at_and_what_it_lacks_is_told(whole, tmp_path):
    manifest, file = whole[0], tmp_path / "o.csv"
    teacher = {"outputs": str(file)}
    write_table(file, [["id", "flower", "temple"], *([f"row-{n}", n, -n] for n in range(1, 31))])
    faults = of(teaching(manifest, teacher=teacher), "outputs")
    assert all(fault["severity"] == "warning" for fault in faults) and len(faults) >= 1
    assert any("train samples; the others learn from their labels alone" in fault["what"] for fault in faults)
    further = of(teaching(manifest, distill={"teachers": [teacher]}), "outputs")
    assert any("train samples; the others are left to the other teachers" in fault["what"] for fault in further)
    write_table(file, [["id", "flower", "temple"], ["nobody", 1, 2]])
    (fault,) = of(teaching(manifest, teacher=teacher), "teacher")
    assert "no sample in common" in fault["what"]
    write_table(file, [["id", "flower", "temple"], ["row-1", 1, "nan"]])
    (fault,) = of(teaching(manifest, distill={"teachers": [teacher]}), "teacher")
    assert "row-1" in fault["file"] and fault["module"] == "distill.teachers.0"


def test_an_artifact_of_another_task_is_told_as_it_would_be_in_training(whole, tmp_path):
    with artifact.creating(tmp_path / "made", stage="teacher", key="k", parent=None) as (_, meta):
        meta["contract"] = Contract(task="regression", modalities={}, output="value").model_dump(mode="json")
    (fault,) = of(teaching(whole[0], distill={"teachers": [{"artifact": str(tmp_path / "made")}]}), "teacher")
    assert "a teacher of a regression cannot teach a classification" in fault["what"]


def test_a_teacher_that_sharding_cannot_divide_is_told(whole, tmp_path):
    """The built-in encoders of the recipe are layers one after another, a ResNet's are blocks."""
    (fault,) = of(teaching(whole[0], teacher={"sharded": True}), "sharded")
    assert fault["severity"] == "warning" and "this one has none" in fault["what"]
    blocks = {"sharded": True, "model": {"encoders": {"picture": {"kind": "resnet"}}}}
    assert not of(teaching(whole[0], teacher=blocks), "sharded")
    with artifact.creating(tmp_path / "made", stage="teacher", key="k", parent=None) as (_, meta):
        meta["contract"] = Contract(task="regression", modalities={}, output="value").model_dump(mode="json")
    further = {"teachers": [{"artifact": str(tmp_path / "made"), "sharded": True}]}
    (fault,) = of(teaching(whole[0], distill=further), "sharded")
    assert fault["severity"] == "error" and fault["module"] == "distill.teachers.0"


def test_a_hint_layer_that_does_not_exist_is_told_with_those_that_do(whole, tmp_path):
    hints = {"loss": {"hints": [{"teacher": "fusoin", "student": "nowhere"}]}}
    faults = of(teaching(whole[0], distill=hints), "hint")
    assert [fault["severity"] for fault in faults] == ["error", "error"]
    assert "no layer 'fusoin' (did you mean 'fusion'?)" in faults[0]["what"] and "it has" in faults[0]["what"]
    assert "the student has no layer 'nowhere'" in faults[1]["what"] and "fusion" in faults[1]["what"]
    file = onnx_file(tmp_path / "t.onnx")
    (fault,) = of(
        teaching(whole[0], teacher={"onnx": file, "model": {"modalities": ["motion"]}}, distill=hints), "hint"
    )
    assert "no layers by name" in fault["what"]


def test_a_hint_layer_that_gives_nothing_to_compare_is_told_before_anything_is_trained(whole):
    hints = {"loss": {"hints": [{"teacher": "encoders", "student": "fusion"}]}}
    (fault,) = of(teaching(whole[0], distill=hints), "hint")
    assert "the teacher's layer 'encoders' did not run" in fault["what"]
    widths = {"model": {"hidden": 24}, "loss": {"hints": [{"kind": "attention"}]}}
    (fault,) = of(teaching(whole[0], distill=widths), "hint")
    assert "attention compares maps" in fault["what"] and "24" in fault["what"]


def test_a_hint_of_a_candidate_loss_and_one_at_what_is_imagined_are_looked_at_too(whole):
    candidate = {"candidates": [{"hints": [{"teacher": "fusion", "student": "nowhere"}]}]}
    (fault,) = of(teaching(whole[0], distill=candidate), "hint")
    assert "the student has no layer 'nowhere'" in fault["what"]
    student = {"model": {"modalities": ["motion"], "hallucinate": ["sound"]}}
    named = of(teaching(whole[0], teacher={"model": {"modalities": ["motion"]}}, distill=student), "hint")
    assert ["the teacher has no layer 'encoders.sound'" in fault["what"] for fault in named] == [True]


def test_more_labels_than_there_are_are_told(whole):
    (fault,) = of(teaching(whole[0], distill={"labels": 43}), "labels")
    assert "43 labels are asked for, the training split has 42" in fault["what"]
    assert not of(teaching(whole[0], distill={"labels": 42}), "labels")
