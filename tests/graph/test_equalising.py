"""Channels between two layers get one range: the graph computes the same, and its codes serve small channels too."""

import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mmedge.backends import onnxruntime_cpu
from mmedge.graph import equalising, placement
from mmedge.graph.placement import Form
from mmedge.graph.prepared import prepared
from mmedge.graph.wiring import Wiring
from mmedge.stages.quantize.mixed import distance

TEXT = """<ir_version: 9, opset_import: ["" : 20]>
graph (float[1, 3, 12, 12] x) => (float[1, 4] y) {
  a = Conv<pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (x, w1, b1)
  ar = ACT
  b = Conv<group = 8, pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (ar, w2, b2)
  br = Relu (b)
  c = Conv<kernel_shape = [1, 1]> (br, w3, b3)
  p = GlobalAveragePool (c)
  f = Flatten (p)
  h = Gemm<transB = 1> (f, w4, b4)
  hr = Relu (h)
  y = Gemm (hr, w5, b5)
}"""
SHAPES = {"w1": (8, 3, 3, 3), "w2": (8, 1, 3, 3), "w3": (8, 8, 1, 1), "w4": (16, 8), "w5": (16, 4)}


def made(activation):
    """A mobile network's block and two linear layers; a few channels are far larger than others that count as much."""
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(TEXT.replace("ACT", activation))
    stored = {name: random.normal(size=shape).astype(np.float32) / np.prod(shape[1:]) for name, shape in SHAPES.items()}
    stored |= {
        f"b{name[1]}": np.full(shape[1 if name == "w5" else 0], 0.1, np.float32) for name, shape in SHAPES.items()
    }
    stored |= {"low": np.float32(0), "high": np.float32(6)}
    for name, bias, behind in (("w1", "b1", "w2"), ("w4", "b4", "w5")):
        stored[name][:2] *= 40
        stored[bias][:2] *= 40
        behind_them = stored[behind][:2]  # w2 is depthwise, and of w5 [inputs, outputs] these are inputs
        behind_them /= 40
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in stored.items()
    )
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
    return model


SAMPLES = [{"x": np.random.default_rng(seed).random((1, 3, 12, 12), np.float32)} for seed in range(24)]


def outputs(graph):
    run = onnxruntime_cpu.session(graph if not hasattr(graph, "graph") else graph.SerializeToString())
    return np.concatenate([run(sample)["y"] for sample in SAMPLES])


@pytest.mark.parametrize(("activation", "changed"), [("Relu (a)", 2), ("Identity (a)", 1), ("Clip (a, low, high)", 1)])
def test_layers_are_changed_against_each_other_and_the_graph_computes_the_same(activation, changed):
    model = made(activation)
    before = outputs(model)
    kinds = [node.op_type for node in model.graph.node]
    assert equalising.equalise(model, SAMPLES) == changed
    assert [node.op_type for node in model.graph.node] == kinds
    assert distance(before, outputs(model)) < 1e-7


def test_codes_of_equal_channels_lose_less(tmp_path):
    errors = []
    for equal in (False, True):
        model = made("Relu (a)")
        expected = outputs(model)
        onnx.save(model, tmp_path / "m.onnx")
        if equal:
            assert prepared(tmp_path / "m.onnx", tmp_path / "e.onnx", SAMPLES).graph == tmp_path / "e.onnx"
            shutil.copyfile(tmp_path / "e.onnx", tmp_path / "m.onnx")
        placement.int8(tmp_path / "m.onnx", tmp_path / "q.onnx", SAMPLES, Form())
        errors.append(distance(expected, outputs(tmp_path / "q.onnx")))
    assert errors[1] < 0.5 * errors[0]


def test_layers_are_left_alone_where_that_loses_no_less(tmp_path, monkeypatch):
    onnx.save(made("Relu (a)"), tmp_path / "m.onnx")
    monkeypatch.setattr(equalising, "_factors", lambda pair, largest, _: np.geomspace(1, 1e-3, largest.size))
    assert prepared(tmp_path / "m.onnx", tmp_path / "e.onnx", SAMPLES).graph == tmp_path / "m.onnx"


def test_what_others_read_too_is_left_as_it_is():
    model = made("Relu (a)")
    model.graph.output.append(onnx.helper.make_tensor_value_info("ar", 1, [1, 8, 12, 12]))
    model.graph.node.append(onnx.helper.make_node("Identity", ["w3"], ["shown"], "shown"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("shown", 1, [8, 8, 1, 1]))
    assert [pair.tensor for pair in equalising.pairs(Wiring(model))] == ["hr"]
