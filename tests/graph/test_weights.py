"""Weights alone in 8 and 4 bits: what is stored, what runtimes make of it, and what does not fit."""

import numpy as np
import onnx
import pytest

from mmedge.backends import onnxruntime_cpu, openvino_cpu
from mmedge.errors import MmedgeError
from mmedge.graph import precision, weights
from mmedge.stages.quantize.mixed import distance

INPUTS, HIDDEN = 64, 48


def linear(opset=20, nodes="h = Gemm<transB = 1> (x, w1, b1) r = Mul (h, h) y = MatMul (r, w2)", shapes=()):
    """A loaded model of two linear layers, of which one alone reads a multiple of 32 values, and both one of 16."""
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]>
    graph (float[batch, {INPUTS}] x) => (float[batch, outputs] y) {{ {nodes} }}"""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    all_shapes = {"w1": (HIDDEN, INPUTS), "b1": (HIDDEN,), "w2": (HIDDEN, 24), **dict(shapes)}
    used = {name for node in model.graph.node for name in node.input}
    for name in sorted(used & set(all_shapes)):
        value = random.normal(size=all_shapes[name]).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
    return model


def written(model, folder, bits):
    onnx.save(model, folder / "fp32.onnx")
    return (
        folder / "fp32.onnx",
        folder / f"w{bits}.onnx",
        weights.weights_only(folder / "fp32.onnx", folder / f"w{bits}.onnx", bits),
    )


def far(before, after, session=onnxruntime_cpu.session):
    x = np.random.default_rng(1).normal(size=(64, INPUTS)).astype(np.float32)
    expected, actual = (run({"x": x})["y"] for run in (onnxruntime_cpu.session(before), session(after)))
    return distance(expected, actual)


@pytest.mark.parametrize(("bits", "most"), [(8, 3e-4), (4, 0.05)])
def test_linear_layers_keep_their_outputs_and_are_decompressed_as_they_multiply(bits, most, tmp_path):
    before, after, count = written(linear(), tmp_path, bits)
    assert count == 2 and 0 < far(before, after) < most
    assert 0 < far(before, after, openvino_cpu.session) < most
    kinds = [node.op_type for node in precision.optimized(after).graph.node]
    assert kinds.count("MatMulNBits") == (2 if bits == 4 else 1)  # 8-bit codes that a Gemm reads across are none


def test_four_bits_take_an_eighth_of_the_place(tmp_path):
    shapes = {"w1": (256, INPUTS), "b1": (256,), "w2": (256, 512)}
    before, after, _ = written(linear(shapes=shapes), tmp_path, 4)
    assert after.stat().st_size < 0.18 * before.stat().st_size  # a scale of four bytes for 32 codes of half a byte


def test_weights_that_layers_share_are_stored_once_for_each_side_that_they_are_read_from(tmp_path):
    nodes = "h = Gemm<transB = 1> (x, w1) r = Relu (h) y = MatMul (r, w1)"
    before, after, count = written(linear(nodes=nodes), tmp_path, 4)
    assert count == 2 and far(before, after) < 0.05
    tied = "h = Gemm<transB = 1> (x, w1) g = Gather (w1, i) y = Add (h, h)"
    model = linear(nodes=tied)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 2]), "i"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("g", 1, [2, INPUTS]))
    before, after, count = written(model, tmp_path, 8)  # an embedding that is the output layer, too
    assert count == 1 and far(before, after) < 3e-4


def test_external_data_is_taken_in(tmp_path):
    onnx.save(linear(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert weights.weights_only(tmp_path / "m.onnx", tmp_path / "w4.onnx", 4) == 2
    (tmp_path / "m.data").unlink()
    onnxruntime_cpu.session(tmp_path / "w4.onnx")


def test_what_cannot_be_is_told(tmp_path):
    small = linear(shapes={"w1": (1, INPUTS), "b1": (1,), "w2": (1, 24)})
    with pytest.raises(MmedgeError, match="no weight has 128 values"):
        written(small, tmp_path, 4)
    odd = linear(shapes={"w1": (HIDDEN - 1, INPUTS), "b1": (HIDDEN - 1,), "w2": (HIDDEN - 1, 24)})
    before, after, count = written(odd, tmp_path, 4)
    types = [tensor.data_type for tensor in onnx.load(after).graph.initializer]
    assert count == 2 and onnx.TensorProto.INT4 in types and onnx.TensorProto.INT8 in types
    assert far(before, after) < 0.05 and far(before, after, openvino_cpu.session) < 0.05
    odd.graph.node[0].CopyFrom(onnx.helper.make_node("Slice", ["x", "from", "to", "axis"], ["h"], "node_0"))
    for name, value in (("from", 0), ("to", HIDDEN - 1), ("axis", 1)):
        odd.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    with pytest.raises(MmedgeError, match="no linear layer reads a multiple of 16 values"):
        written(odd, tmp_path, 4)
    unknown = linear(opset=13)
    unknown.graph.node[1].op_type = "NobodyKnows"
    with pytest.raises(MmedgeError, match="4-bit weights need opset 21, and the graph of opset 13 does not convert"):
        written(unknown, tmp_path, 4)
