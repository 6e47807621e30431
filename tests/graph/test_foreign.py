"""ONNX files that other tools wrote: whatever their form, the one that quantization takes has their answers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge.backends import onnxruntime_cpu
from mmedge.errors import UsageError
from mmedge.graph import foreign, precision, weights
from mmedge.graph.foreign import tidied, unfolded
from mmedge.stages.quantize import ptq

CALL = {"x:0": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}


def theirs(path, *, opset=17, ir=8, dtype=np.float32, constants=False, inputs=False, names=True):
    """Conv, BatchNormalization, Relu, pooling and Gemm, with inputs and outputs of ``dtype``."""
    random, kind = np.random.default_rng(1), helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shapes = {"w": (16, 3, 3, 3), "scale": 16, "shift": 16, "mean": 16, "v": (16, 4), "bias": 4}
    stored = {name: random.normal(0, 0.3, shape) for name, shape in shapes.items()} | {"var": random.uniform(1, 2, 16)}
    weights = [numpy_helper.from_array(value.astype(dtype), name) for name, value in stored.items()]
    nodes = [
        helper.make_node("Conv", ["x:0", "w"], ["c"], "first" if names else "", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "bias"], ["y"], "last" if names else ""),
    ]
    given = [helper.make_tensor_value_info("x:0", kind, ["n", 3, 8, 8])]
    if constants:
        nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in weights] + nodes
    if inputs:
        given += [helper.make_tensor_value_info(tensor.name, kind, list(tensor.dims)) for tensor in weights]
    graph = helper.make_graph(
        nodes, "g", given, [helper.make_tensor_value_info("y", kind, ["n", 4])], [] if constants else weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    "form",
    [
        {"opset": 9, "ir": 3, "inputs": True},
        {"opset": 12, "constants": True},
        {"names": False},
        {"opset": 21, "ir": 10},
    ],
)
def test_a_graph_of_any_age_has_named_nodes_a_scale_a_channel_no_batch_norm_and_the_same_answers(form, tmp_path):
    source = theirs(tmp_path / "m.onnx", **form)
    notes = tidied(source, tmp_path / "t.onnx", CALL)
    model = onnx.load(tmp_path / "t.onnx")
    names = [node.name for node in model.graph.node]
    assert all(names) and len(set(names)) == len(names)
    assert not {"BatchNormalization", "Constant"} & {node.op_type for node in model.graph.node}
    assert [value.name for value in model.graph.input] == ["x:0"]
    assert {"w", "v"} <= {tensor.name for tensor in model.graph.initializer}  # by which layers are known to their owner
    assert [(each.domain, each.version) for each in model.opset_import] == [("", max(form.get("opset", 17), 13))]
    assert any("converted from opset" in note for note in notes) == ("opset" in form and form["opset"] < 13)
    a, b = (onnxruntime_cpu.session(path)(CALL)["y"] for path in (source, tmp_path / "t.onnx"))
    assert np.abs(a - b).max() < 1e-5
    assert weights.weights_only(tmp_path / "t.onnx", tmp_path / "w.onnx") == 1  # the other is too small to be worth it


def test_a_float16_graph_computes_in_float32_and_is_called_as_before(tmp_path):
    source, call = theirs(tmp_path / "m.onnx", dtype=np.float16), {"x:0": CALL["x:0"].astype(np.float16)}
    (note,) = tidied(source, tmp_path / "t.onnx", call)
    assert "float16" in note and "widened to float32" in note
    assert {tensor.data_type for tensor in onnx.load(tmp_path / "t.onnx").graph.initializer} == {TensorProto.FLOAT}
    a, b = (onnxruntime_cpu.session(path)(call)["y"] for path in (source, tmp_path / "t.onnx"))
    assert a.dtype == b.dtype == np.float16 and np.abs(a - b).max() < 0.01 * np.abs(a).max()


def test_float16_between_casts_of_its_own_leaves_no_cast(tmp_path):
    precision.to_fp16(theirs(tmp_path / "m.onnx"), tmp_path / "half.onnx")  # float32 at its ends
    tidied(tmp_path / "half.onnx", tmp_path / "t.onnx", CALL)
    assert "Cast" not in {node.op_type for node in onnx.load(tmp_path / "t.onnx").graph.node}
    a, b = (onnxruntime_cpu.session(tmp_path / name)(CALL)["y"] for name in ("m.onnx", "t.onnx"))
    assert np.abs(a - b).max() < 0.01 * np.abs(a).max()


def test_a_graph_that_is_quantized_already_is_refused_with_what_to_give_instead(tmp_path):
    weights.weights_only(theirs(tmp_path / "m.onnx"), tmp_path / "q.onnx")
    with pytest.raises(UsageError, match="quantized already: it has DequantizeLinear") as raised:
        tidied(tmp_path / "q.onnx", tmp_path / "t.onnx", CALL)
    assert "the float model" in str(raised.value)


def test_what_only_a_branch_reads_stays_in_the_graph_and_its_layers_are_told(tmp_path):
    """The bodies of If see the tensors around them."""
    value = helper.make_tensor_value_info
    stored = {"w": np.ones((16, 16), np.float32), "half": np.float32([0.5])}
    branches = {
        name: helper.make_graph(
            [helper.make_node(kind, ["m", factor], [name])], name, [], [value(name, TensorProto.FLOAT, None)]
        )
        for name, kind, factor in (("then_branch", "MatMul", "w"), ("else_branch", "Mul", "half"))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "product"),
        helper.make_node("If", ["loud"], ["y"], "if", **branches),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 16]), value("loud", TensorProto.BOOL, [])],
        [value("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    call = {"x": np.ones((2, 16), np.float32), "loud": np.array(False)}
    notes = tidied(tmp_path / "m.onnx", tmp_path / "t.onnx", call)
    assert notes == ["warning: layers with weights inside If stay in float: 1"]
    assert weights.weights_only(tmp_path / "t.onnx", tmp_path / "w.onnx") == 1
    assert np.allclose(onnxruntime_cpu.session(tmp_path / "w.onnx")(call)["y"], 8)


@pytest.mark.parametrize("part", [False, True])
def test_a_float64_graph_and_a_float64_part_compute_in_float32(tmp_path, part):
    call = {"x": np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32 if part else np.float64)}
    weights = [numpy_helper.from_array(np.random.default_rng(1).standard_normal((6, 4)), "w")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if part:
        nodes = [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("MatMul", ["wide", "w"], ["product"]),
            helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
        ]
    kind = TensorProto.FLOAT if part else TensorProto.DOUBLE
    given, out = (helper.make_tensor_value_info(name, kind, ["n", size]) for name, size in (("x", 6), ("y", 4)))
    graph = helper.make_graph(nodes, "g", [given], [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    notes = tidied(tmp_path / "m.onnx", tmp_path / "t.onnx", call)
    assert any("float64" in note and "rounded to float32" in note for note in notes)
    before, after = (onnxruntime_cpu.session(tmp_path / f"{name}.onnx")(call)["y"] for name in "mt")
    assert before.dtype == after.dtype
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-6)
    assert all(t.data_type != TensorProto.DOUBLE for t in onnx.load(tmp_path / "t.onnx").graph.initializer)


def summed(path):
    """Two branches, each a product, whose sum is the answer."""
    random = np.random.default_rng(0)
    weights = [numpy_helper.from_array(random.standard_normal((6, 8)).astype(np.float32), name) for name in "ab"]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("MatMul", ["z", "b"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6]) for name in "xz"]
    graph = helper.make_graph(nodes, "g", given, [helper.make_tensor_value_info("y", 1, ["n", 8])], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_folding_leaves_a_sum_of_branches_as_nncf_takes_it(tmp_path):
    call = {name: np.ones((1, 6), np.float32) for name in "xz"}
    tidied(summed(tmp_path / "m.onnx"), tmp_path / "t.onnx", call)
    ptq.int8(tmp_path / "t.onnx", tmp_path / "q.onnx", [call] * 4)
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(tmp_path / "q.onnx").graph.node)


def test_what_folding_takes_apart_is_quantized_as_it_was_given(tmp_path):
    random = np.random.default_rng(0)
    weights = {"w": (8, 3, 3, 3), "scale": (8,), "shift": (8,), "v": (5, 8, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x:0", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GroupNormalization", ["c", "scale", "shift"], ["n"], num_groups=4),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x:0", 1, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["n", 5, 8, 8])],
        [numpy_helper.from_array(random.standard_normal(s).astype(np.float32), n) for n, s in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    tidied(tmp_path / "m.onnx", tmp_path / "t.onnx", CALL)
    assert "GroupNormalization" in {node.op_type for node in onnx.load(unfolded(tmp_path / "t.onnx")).graph.node}
    ptq.int8(unfolded(tmp_path / "t.onnx"), tmp_path / "q.onnx", [CALL] * 4)


def test_infinite_outputs_do_not_make_any_two_graphs_alike():
    x = np.array([1, -np.inf, 3], np.float32)
    assert foreign._same(x, x) and not foreign._same(x, np.array([9, -np.inf, 3], np.float32))


def test_a_layer_of_three_axes_of_known_sizes_stays_one_that_runs_in_8_bits(tmp_path):
    random = np.random.default_rng(0)
    stored = {"w": random.standard_normal((8, 4)), "b": random.standard_normal(4)}
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"], "layer"), helper.make_node("Add", ["p", "b"], ["y"], "bias")]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 5, n]) for name, n in (("x", 8), ("y", 4)))
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    tidied(tmp_path / "m.onnx", tmp_path / "t.onnx", {"x": random.standard_normal((1, 5, 8)).astype(np.float32)})
    assert [node.op_type for node in onnx.load(tmp_path / "t.onnx").graph.node] == ["MatMul", "Add"]


def test_a_product_of_three_axes_stays_one_where_folding_takes_reshapes_away(tmp_path):
    """ONNX Runtime would make it a Gemm between two Reshapes, and run that in float."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 3, 4] x) => (float[1, 3, 2] y)
        <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[1, 2] b = {1, 2}, int64[1] flat = {-1}, int64[2] two = {1, 2}>
        {
            b1 = Reshape (b, flat) b2 = Reshape (b1, two) b3 = Reshape (b2, flat)
            p = MatMul (x, w) y = Add (p, b3)
        }
    """)
    onnx.save(model, tmp_path / "flat.onnx")
    foreign.tidied(tmp_path / "flat.onnx", tmp_path / "tidy.onnx", {"x": np.ones((1, 3, 4), np.float32)})
    assert [node.op_type for node in onnx.load(tmp_path / "tidy.onnx").graph.node] == ["MatMul", "Add"]
