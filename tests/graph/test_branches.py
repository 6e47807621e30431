"""Graphs with branches inside: what is cut out of them, and found in them, sees what the branches read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge.backends import onnxruntime_cpu
from mmedge.contract import Contract
from mmedge.errors import MmedgeError
from mmedge.graph.bisect import first_difference
from mmedge.graph.counts import count
from mmedge.graph.cut import split_graph, subset_graph
from mmedge.graph.wiring import read_by
from mmedge.spec import ArraySpec

CONTRACT = Contract(
    task="classification",
    labels=("a", "b"),
    modalities={"left": ArraySpec(kind="array", shape=(3,)), "right": ArraySpec(kind="array", shape=(2,))},
)
FLOAT, W, V = TensorProto.FLOAT, np.arange(6, dtype=np.float32).reshape(3, 2), np.eye(2, dtype=np.float32) * 3


@pytest.fixture
def graph(tmp_path):
    """logits = left @ W + (right's part, read inside an If and set to 0 where right is absent)."""

    def write(name="whole", factor=1.0):
        value = helper.make_tensor_value_info
        then = helper.make_graph(
            [helper.make_node("MatMul", ["shown", "V"], ["t"])], "then", [], [value("t", FLOAT, None)]
        )
        other = helper.make_graph(
            [helper.make_node("Neg", ["shown"], ["e"])], "else", [], [value("e", FLOAT, None)]
        )  # fmt: skip
        nodes = [
            helper.make_node("MatMul", ["left", "W"], ["p"], "first"),
            helper.make_node("Slice", ["present", "one", "two", "one"], ["there"], "there"),
            helper.make_node("Where", ["there", "right", "none"], ["shown"], "where"),
            helper.make_node("If", ["yes"], ["q"], "branch", then_branch=then, else_branch=other),
            helper.make_node("Add", ["p", "q"], ["logits"], "sum"),
        ]
        stored = {"W": W, "V": V * factor, "none": np.zeros((1, 2), np.float32), "yes": np.array(True)}
        stored |= {"one": np.array([1]), "two": np.array([2])}
        made = helper.make_graph(
            nodes,
            "g",
            [value("left", FLOAT, ["n", 3]), value("right", FLOAT, ["n", 2]), value("present", TensorProto.BOOL, ["n", 2])],
            [value("logits", FLOAT, ["n", 2])],
            [numpy_helper.from_array(np.asarray(array, array.dtype), key) for key, array in stored.items()],
        )  # fmt: skip
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, tmp_path / f"{name}.onnx")
        return tmp_path / f"{name}.onnx"

    return write


INPUTS = {"left": np.ones((2, 3), np.float32), "right": np.array([[1, 2], [3, 4]], np.float32)}


def test_a_node_reads_what_its_branches_read_around_them_and_not_what_they_make(graph):
    nodes = {node.name: node for node in onnx.load(graph()).graph.node}
    assert read_by(nodes["branch"]) == {"yes", "shown", "V"}
    assert read_by(nodes["sum"]) == {"p", "q"}


@pytest.mark.parametrize("subset", [["left"], ["right"]])
def test_the_engine_of_a_subset_answers_as_the_whole_graph(graph, subset, tmp_path):
    subset_graph(graph(), CONTRACT, subset, tmp_path / "part.onnx")
    part = onnxruntime_cpu.session(tmp_path / "part.onnx")
    present = np.array([[name in subset for name in CONTRACT.modalities]] * 2)
    shown = {name: x if name in subset else np.zeros_like(x) for name, x in INPUTS.items()}
    expected = onnxruntime_cpu.session(graph())({**shown, "present": present})["logits"]
    np.testing.assert_allclose(part({name: INPUTS[name] for name in part.inputs})["logits"], expected)


def test_a_graph_with_branches_is_not_split(graph, tmp_path):
    with pytest.raises(MmedgeError, match="branches or loops"):
        split_graph(graph(), CONTRACT, tmp_path / "split")


def test_the_first_difference_is_found_behind_a_branch(graph):
    found = first_difference(graph(), graph("other", 2.0), {**INPUTS, "present": np.ones((2, 2), bool)}, tolerance=1e-4)
    assert found is not None and found.node in ("branch", "sum")


def test_what_a_branch_multiplies_and_holds_is_counted(graph):
    path = graph()
    counted = (W.size + V.size + 2, 3 * 2 + 2 * 2)
    assert count(path) == counted
    model = onnx.load(path)
    branch = next(node for node in model.graph.node if node.op_type == "If")
    inside = next(attribute.g for attribute in branch.attribute if attribute.name == "then_branch")
    model.graph.initializer.remove(next(each for each in model.graph.initializer if each.name == "V"))
    inside.initializer.append(numpy_helper.from_array(V, "V"))
    onnx.save(model, path)
    assert count(path) == counted
