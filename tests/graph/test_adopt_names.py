"""A foreign ONNX model whose names, types and age meet those of the graph that it is put into."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge.backends import onnxruntime_cpu
from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.graph.adopt import adopt, check_whole, check_width
from mmedge.spec import ArraySpec, ImageSpec, TabularSpec

CONTRACT = Contract(
    task="classification",
    labels=("a", "b"),
    modalities={"left": ArraySpec(kind="array", shape=(3,)), "right": ArraySpec(kind="array", shape=(2,))},
)
MEANS = {"left": np.array([1, 2, 3], np.float32), "right": np.array([4, 5], np.float32)}
W, V = np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(4, dtype=np.float32).reshape(2, 2) + 7
X, Z = np.ones((2, 3), np.float32), np.full((2, 2), 2, np.float32)
PRESENT = np.array([[True, True], [True, False]])
FLOAT = TensorProto.FLOAT


def scores(present=PRESENT):
    """x @ W + z @ V, with the means in place of what is absent."""
    left, right = np.where(present[:, :1], X, MEANS["left"]), np.where(present[:, 1:], Z, MEANS["right"])
    return left @ W + right @ V


def written(path, nodes, inputs, weights, *, outputs=("scores",), opset=17, ir=8):
    given = [helper.make_tensor_value_info(name, FLOAT, ["n", size]) for name, size in inputs.items()]
    answer = [helper.make_tensor_value_info(name, FLOAT, ["n", 2]) for name in outputs]
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    if ir < 4:
        given += [helper.make_tensor_value_info(name, FLOAT, list(value.shape)) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", given, answer, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def two(x, z, w="W", v="V", p="p", q="q"):
    return [
        helper.make_node("MatMul", [x, w], [p]),
        helper.make_node("MatMul", [z, v], [q]),
        helper.make_node("Add", [p, q], ["scores"]),
    ]


def branched(path, kind):
    """``right`` is read inside a branch, or inside the body of a loop."""
    inner = [helper.make_node("MatMul", ["x2", "V"], ["t"])]
    if kind == "If":
        zero = numpy_helper.from_array(np.zeros((1, 2), np.float32))
        then = helper.make_graph(inner, "then", [], [helper.make_tensor_value_info("t", FLOAT, None)])
        other = [helper.make_node("Constant", [], ["e"], value=zero)]
        other = helper.make_graph(other, "else", [], [helper.make_tensor_value_info("e", FLOAT, None)])
        middle = [helper.make_node("If", ["yes"], ["q"], then_branch=then, else_branch=other)]
    else:
        inner += [helper.make_node("Add", ["t", "before"], ["after"]), helper.make_node("Identity", ["go"], ["on"])]
        body = helper.make_graph(
            inner,
            "body",
            [
                helper.make_tensor_value_info("turn", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                helper.make_tensor_value_info("before", FLOAT, None),
            ],
            [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("after", FLOAT, None)],
        )  # fmt: skip
        middle = [
            helper.make_node("Mul", ["p", "none"], ["start"]),
            helper.make_node("Loop", ["once", "yes", "start"], ["q"], body=body),
        ]
    nodes = [helper.make_node("MatMul", ["x1", "W"], ["p"]), *middle, helper.make_node("Add", ["p", "q"], ["scores"])]
    weights = {"W": W, "V": V, "yes": np.array(True), "once": np.array(1), "none": np.float32(0)}
    return written(path, nodes, {"x1": 3, "x2": 2}, weights)


@pytest.mark.parametrize(
    "kind, names",
    [
        ("ir3", {}),
        ("inner", {"left": "x1", "right": "x2"}),
        ("present", {"left": "x1", "right": "x2"}),
        ("swapped", {"left": "right", "right": "left"}),
        ("weight", {"left": "x1", "right": "x2"}),
        ("logits", {"left": "x1", "right": "x2"}),
        ("If", {"left": "x1", "right": "x2"}),
        ("Loop", {"left": "x1", "right": "x2"}),
    ],
)
def test_names_that_meet_stay_apart_and_what_is_absent_is_not_seen(kind, names, tmp_path):
    path, apart = tmp_path / "m.onnx", {"x1": 3, "x2": 2}
    match kind:
        case "ir3":
            written(path, two("left", "right"), {"left": 3, "right": 2}, {"W": W, "V": V}, opset=9, ir=3)
        case "inner":
            written(path, two("x1", "x2", p="left", q="right"), apart, {"W": W, "V": V})
        case "present":
            written(path, two("x1", "x2", p="present"), apart, {"W": W, "V": V})
        case "swapped":
            written(path, two("right", "left"), {"right": 3, "left": 2}, {"W": W, "V": V})
        case "weight":
            written(path, two("x1", "x2", w="left"), apart, {"left": W, "V": V})
        case "logits":
            written(path, two("x1", "x2", p="logits"), apart, {"W": W, "V": V})
        case _:
            branched(path, kind)
    adopt(path, CONTRACT, names, MEANS, tmp_path / "a.onnx")
    said = onnxruntime_cpu.session(tmp_path / "a.onnx")({"left": X, "right": Z, "present": PRESENT})["logits"]
    np.testing.assert_allclose(said, scores(), rtol=1e-6)


def test_whole_numbers_are_what_they_were_before_they_were_normalised(tmp_path):
    spec = ImageSpec(kind="image", height=2, width=2, channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    ids = ArraySpec(kind="array", shape=(4,), mean=(100.0,), std=(30.0,))
    contract = CONTRACT.model_copy(update={"modalities": {"see": spec, "read": ids}})
    inputs = [
        helper.make_tensor_value_info("see", TensorProto.UINT8, ["n", 2, 2, 3]),
        helper.make_tensor_value_info("read", TensorProto.INT32, ["n", 4]),
    ]
    nodes = [
        helper.make_node("Cast", ["see"], ["s"], to=FLOAT),
        helper.make_node("Flatten", ["s"], ["f"]),
        helper.make_node("Cast", ["read"], ["r"], to=FLOAT),
        helper.make_node("Concat", ["f", "r"], ["y"], axis=1),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", FLOAT, ["n", 16])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    means = {"see": np.zeros(spec.shape, np.float32), "read": np.zeros(4, np.float32)}
    notes = adopt(tmp_path / "m.onnx", contract, {}, means, tmp_path / "a.onnx")
    random = np.random.default_rng(0)
    pixels, words = random.integers(0, 256, (2, 3, 2, 2)), random.integers(0, 30_000, (2, 4))
    along = np.array(spec.mean).reshape(3, 1, 1), np.array(spec.std).reshape(3, 1, 1)
    feed = {
        "see": ((pixels / 255 - along[0]) / along[1]).astype(np.float32),
        "read": ((words - 100) / 30).astype(np.float32),
        "present": np.ones((2, 2), bool),
    }
    said = onnxruntime_cpu.session(tmp_path / "a.onnx")(feed)["logits"]
    np.testing.assert_array_equal(said, np.concatenate([pixels.transpose(0, 2, 3, 1).reshape(2, -1), words], 1))
    assert sum("whole numbers" in note for note in notes) == 2


def test_features_that_are_no_whole_numbers_are_refused_for_an_input_of_them(tmp_path):
    contract = CONTRACT.model_copy(update={"modalities": {"table": TabularSpec(kind="tabular", columns=("a", "b"))}})
    graph = helper.make_graph(
        [helper.make_node("Cast", ["table"], ["y"], to=FLOAT)],
        "g",
        [helper.make_tensor_value_info("table", TensorProto.INT64, ["n", 2])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="in whole numbers, and the data gives tabular features"):
        adopt(tmp_path / "m.onnx", contract, {}, {"table": np.zeros(2)}, tmp_path / "a.onnx")


@pytest.mark.parametrize("task, last", [("classification", "Softmax"), ("multilabel", "Sigmoid")])
def test_probabilities_are_taken_as_logits_by_their_logarithms_and_that_is_said(task, last, tmp_path):
    nodes = [*two("left", "right")[:2], helper.make_node("Add", ["p", "q"], ["sum"])]
    nodes.append(helper.make_node(last, ["sum"], ["scores"]))
    path = written(tmp_path / "m.onnx", nodes, {"left": 3, "right": 2}, {"W": W / 10, "V": V / 10})
    contract = Contract(task=task, labels=("a", "b"), modalities=CONTRACT.modalities, output="logits")
    (note,) = adopt(path, contract, {}, MEANS, tmp_path / "a.onnx")
    assert last in note and "logits" in note
    said = onnxruntime_cpu.session(tmp_path / "a.onnx")({"left": X, "right": Z, "present": PRESENT})["logits"]
    expected = scores() / 10
    if task == "classification":
        said, expected = (x - x.max(1, keepdims=True) for x in (said, expected))
    np.testing.assert_allclose(said, expected, rtol=1e-4, atol=1e-4)


def test_probabilities_that_no_softmax_ends_in_are_refused(tmp_path):
    """The mean of two networks' softmaxes."""
    nodes = [*two("left", "right")[:2], helper.make_node("Softmax", ["p"], ["one"])]
    nodes += [helper.make_node("Softmax", ["q"], ["other"]), helper.make_node("Mean", ["one", "other"], ["scores"])]
    path = written(tmp_path / "m.onnx", nodes, {"left": 3, "right": 2}, {"W": W, "V": V})
    adopt(path, CONTRACT, {}, MEANS, tmp_path / "a.onnx")
    with pytest.raises(UsageError, match=r"are probabilities[\s\S]*m.onnx[\s\S]*distill.teachers.1.outputs"):
        check_width(tmp_path / "a.onnx", CONTRACT, path, "distill.teachers.1")


def test_numbers_that_are_no_whole_ones_are_told_where_the_model_takes_whole_ones(tmp_path):
    ids = ArraySpec(kind="array", shape=(2,), mean=(100.0,), std=(30.0,))
    contract = CONTRACT.model_copy(update={"modalities": {"read": ids}})
    graph = helper.make_graph(
        [helper.make_node("Cast", ["read"], ["y"], to=FLOAT)],
        "g",
        [helper.make_tensor_value_info("read", TensorProto.INT64, ["n", 2])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 2])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    words = (np.array([[3, 29_999], [7, 400]]) - 100) / 30
    check_whole(path, contract, {}, {"read": words.astype(np.float32)})
    with pytest.raises(UsageError, match="takes int64, and the data's values of read are no whole numbers"):
        check_whole(path, contract, {}, {"read": (words + 0.005).astype(np.float32)})
