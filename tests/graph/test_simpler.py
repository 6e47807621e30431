"""What torch's exporter writes around attention, written by hand, and the simpler graph that computes the same."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge.backends import onnxruntime_cpu
from mmedge.graph.simpler import simplify, sizes_of

LEAST = float(np.finfo(np.float32).min)


def attention(masked=LEAST, columns=(0, 1, 2), rows="mask"):
    """Scores of x [batch, 2, 3, 4] with itself, softmax, masked by [batch, 3] as transformers' code is exported."""
    stored = {
        "ends": [-1], "before": [-2], "first": [-(2**63)], "last": [2**63 - 1], "spread": [1, 2, 3],
        "columns": np.reshape(columns, (1, 1, 1, 3)), "zero": np.array(0), "one": np.array(1),
    }  # fmt: skip
    tensors = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in stored.items()]
    tensors += [
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("open", 0), ("masked", masked))
    ]
    count = iter(range(100))

    def node(kind, inputs, output, **attributes):
        return helper.make_node(kind, inputs.split(), [output], f"{kind}_{next(count)}", **attributes)

    nodes = [
        node("Shape", "x", "shape", start=0),
        node("Slice", "shape ends last", "depth"),
        node("Slice", "shape before ends", "length"),
        node("Slice", "shape first before", "outer"),
        node("Concat", "ends length depth", "three", axis=0),
        node("Reshape", "x three", "flat", allowzero=1),
        node("Transpose", "flat", "turned", perm=[0, 2, 1]),
        node("Concat", "outer depth length", "four", axis=0),
        node("Reshape", "turned four", "keys", allowzero=1),
        node("MatMul", "x keys", "scores"),
        node("Shape", rows, "sizes", start=0, end=1),
        node("Squeeze", "sizes", "size"),
        node("Range", "zero size one", "counted"),
        node("Unsqueeze", "counted spread", "rows"),
        node("Max", "rows columns", "larger"),
        node("Shape", "larger", "both"),
        node("Expand", "rows both", "every_row"),
        node("Expand", "columns both", "every_column"),
        node("Unsqueeze", "every_row ends", "row"),
        node("Unsqueeze", "every_column ends", "column"),
        node("Concat", "row column", "pairs", axis=-1),
        node("GatherND", "mask pairs", "picked", batch_dims=0),
        node("Where", "picked open masked", "bias"),
        node("Add", "scores bias", "sum"),
        node("Softmax", "sum", "shares", axis=-1),
        node("IsNaN", "shares", "wrong"),
        node("Where", "wrong open shares", "y"),
    ]
    given = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 3, 4]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, ["batch", 3]),
        helper.make_tensor_value_info("other", TensorProto.BOOL, ["others", 3]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2, 3, 3])
    graph = helper.make_graph(nodes, "attention", given, [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def kinds(model):
    return {node.op_type for node in model.graph.node}


def samples(batch):
    random = np.random.default_rng(batch)
    mask = random.integers(0, 2, (batch, 3)).astype(bool)
    mask[0] = False  # a whole row of masked scores
    x = random.normal(size=(batch, 2, 3, 4)).astype(np.float32)
    return {"x": x, "mask": mask, "other": np.ones((batch, 3), bool)}


@pytest.mark.parametrize("batch", [1, 3])
def test_attention_is_simpler_and_gives_the_same(batch):
    model = attention()
    before = onnxruntime_cpu.session(model.SerializeToString())(samples(batch))["y"]
    simplify(model)
    onnx.checker.check_model(model, full_check=True)
    assert not kinds(model) & {"IsNaN", "GatherND", "Range", "Slice", "Reshape", "Expand"}
    assert len(model.graph.node) == 7
    after = onnxruntime_cpu.session(model.SerializeToString())(samples(batch))["y"]
    np.testing.assert_array_equal(before, after)


def test_what_is_not_proved_to_be_the_same_stays():
    infinite, other_columns, other_rows = attention(-np.inf), attention(columns=(0, 2, 1)), attention(rows="other")
    for model in (infinite, other_columns, other_rows):
        simplify(model)
    assert "IsNaN" in kinds(infinite) and "GatherND" not in kinds(infinite)
    assert "GatherND" in kinds(other_columns) and "GatherND" in kinds(other_rows)


def test_a_graph_without_attention_is_left_as_it_is():
    model = attention()
    del model.graph.node[10:]
    model.graph.output[0].name = "scores"
    before = model.SerializeToString()
    simplify(model)
    assert model.SerializeToString() == before


def test_open_sizes_of_different_names_stay_different():
    sizes = sizes_of(attention(), 50)
    assert sizes["x"] == [50, 2, 3, 4] and sizes["mask"] == [50, 3] and sizes["other"] == [51, 3]
    assert sizes_of(attention())["x"] == [0, 2, 3, 4]
