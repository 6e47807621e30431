"""Linear layers that read one tensor are one layer, which computes the same."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mmedge.backends import onnxruntime_cpu
from mmedge.graph import joined, placement, qdq, rounding, structure
from mmedge.graph.placement import Form
from mmedge.graph.wiring import Wiring

X = np.random.default_rng(0).standard_normal((1, 5, 8)).astype(np.float32)
WIDTHS = {"q": 4, "k": 4, "v": 6}


def graph(shown=()):
    """Three projections of x with biases and a fourth without one; those ``shown`` are outputs before their bias."""
    random, nodes, stored = np.random.default_rng(1), [], []
    for name, width in WIDTHS.items():
        stored.append(numpy_helper.from_array(random.standard_normal((8, width)).astype(np.float32), f"{name}.w"))
        stored.append(numpy_helper.from_array(random.standard_normal(width).astype(np.float32), f"{name}.b"))
        nodes.append(helper.make_node("MatMul", ["x", f"{name}.w"], [f"{name}.p"], name))
        nodes.append(helper.make_node("Add", [f"{name}.b", f"{name}.p"], [f"{name}.y"], f"{name}.add"))
    nodes.append(helper.make_node("MatMul", ["x", "q.w"], ["plain.y"], "plain"))
    outputs = [f"{name}.y" for name in (*WIDTHS, "plain")] + [f"{name}.p" for name in shown]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 5, None]) for name in outputs]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 5, 8])
    made = helper.make_graph(nodes, "g", [x], values, stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def outputs(model):
    return onnxruntime_cpu.session(model.SerializeToString())({"x": X})


def test_projections_of_one_tensor_are_one_layer_and_its_outputs_the_same():
    model = graph()
    before = outputs(model)
    assert joined.join(model) == 6
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["MatMul", "Add", "Split", "MatMul"] and model.graph.node[0].name == "q+k+v"
    onnx.checker.check_model(model, full_check=True)
    after = outputs(model)
    assert all(np.allclose(before[name], after[name], atol=1e-5) for name in before)


def test_a_product_that_is_shown_stays_as_it_is():
    model = graph(shown=["k"])
    before = outputs(model)
    assert joined.join(model) == 4 and model.graph.node[0].name == "q+v"
    after = outputs(model)
    assert all(np.allclose(before[name], after[name], atol=1e-5) for name in before)


def test_a_layer_that_was_joined_is_still_called_by_its_own_name(tmp_path):
    model = graph()
    joined.join(model)
    onnx.save(model, tmp_path / "float.onnx")
    placement.int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", [{"x": X}], Form())
    layers = qdq.layers(onnx.load(tmp_path / "int8.onnx"))
    assert layers[0].label == "q.w+k.w+v.w"
    assert qdq.named(["k.w"], layers, where="x") == qdq.named(["v"], layers, where="x") == ["q+k+v"]


def test_weights_that_two_joined_layers_share_are_each_their_own():
    model = graph()
    for name in WIDTHS:
        model.graph.node.append(helper.make_node("MatMul", ["z", f"{name}.w"], [f"{name}.p2"], f"{name}2"))
        model.graph.node.append(helper.make_node("Add", [f"{name}.p2", f"{name}.b"], [f"{name}.y2"], f"{name}.add2"))
        model.graph.output.append(helper.make_tensor_value_info(f"{name}.y2", 1, ["batch", 5, None]))
    model.graph.node.insert(0, helper.make_node("Neg", ["x"], ["z"], "turned"))
    before = outputs(model)
    assert joined.join(model) == 12
    onnx.checker.check_model(model, full_check=True)
    after = outputs(model)
    assert all(np.allclose(before[name], after[name], atol=1e-5) for name in before)


def test_a_joined_layer_that_goes_back_to_float_has_its_own_weights_again(tmp_path):
    model = graph()
    joined.join(model)
    onnx.save(model, tmp_path / "float.onnx")
    powers = rounding.powers(model, structure.weighted(Wiring(model)), [{"x": X}])
    placement.int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", [{"x": X}], Form(powers=powers))
    quantized = onnx.load(tmp_path / "int8.onnx")
    back = qdq.restored(quantized, model, [layer.name for layer in qdq.layers(quantized)])
    before, after = outputs(model), outputs(back)
    assert all(np.array_equal(before[name], after[name]) for name in before)
