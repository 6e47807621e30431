"""Weights rounded together: what their inputs' products are, and that outputs are kept better than by the nearest codes."""

import numpy as np
import onnx
import pytest

from mmedge.backends import onnxruntime_cpu
from mmedge.graph import rounding, structure
from mmedge.graph.placement import coded
from mmedge.graph.wiring import Wiring


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory):
    """A strided, padded convolution, a depthwise one and a linear layer, as a loaded model."""
    text = """<ir_version: 9, opset_import: ["" : 20]>
    graph (float[1, 3, 9, 9] x) => (float[1, 2] y) {
      a = Conv<strides = [2, 2], pads = [1, 1, 0, 0], kernel_shape = [3, 3]> (x, w1)
      b = Conv<group = 4, dilations = [2, 1], pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (a, w2)
      c = Flatten (b)
      y = Gemm<transB = 1> (c, w3)
    }"""
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(text)
    shapes = {"w1": (4, 3, 3, 3), "w2": (4, 1, 3, 3), "w3": (2, 32)}
    for name, shape in shapes.items():
        value = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
    return model


def test_products_are_those_of_what_each_output_reads(convolutions):
    wiring = Wiring(convolutions)
    layers = structure.weighted(wiring)
    samples = [{"x": np.random.default_rng(seed).normal(size=(1, 3, 9, 9)).astype(np.float32)} for seed in range(3)]
    found = rounding.powers(convolutions, layers, samples)
    shown = onnx.ModelProto.FromString(convolutions.SerializeToString())
    shown.graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in layers[:-1])
    run = onnxruntime_cpu.session(shown.SerializeToString())
    outputs = [run(sample) for sample in samples]
    assert [found[node.name].shape for node in layers] == [(1, 27, 27), (4, 9, 9), (1, 32, 32)]
    for node in layers:
        power, weight = found[node.name], wiring.value(node.input[1])
        rows = weight.reshape(len(power), -1, power.shape[-1])
        ours = np.einsum("goi,gij,goj->go", rows, power, rows).ravel()
        axes = tuple(axis for axis in range(outputs[0][node.output[0]].ndim) if axis != 1)
        theirs = sum(np.square(output[node.output[0]]).sum(axis=axes) for output in outputs)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_outputs_are_kept_better_than_by_the_nearest_codes(axis):
    random = np.random.default_rng(1)
    x = random.normal(size=(500, 12)) @ random.normal(size=(12, 160)) + 0.05 * random.normal(size=(500, 160))
    weight = random.normal(size=(24, 160) if axis == 0 else (160, 24)).astype(np.float32)
    power = (x.T @ x).astype(np.float32)[None]
    nearest, scale = coded(weight, axis, 7)
    together = rounding.codes_of(weight, axis, scale, power, 7)
    assert together.shape == weight.shape and together.dtype == np.int8 and np.abs(together).max() <= 7

    def lost(codes):
        off = codes * (scale[:, None] if axis == 0 else scale) - weight
        return float(np.square(x @ (off.T if axis == 0 else off)).sum())

    assert lost(together) < 0.3 * lost(nearest)


def test_inputs_that_have_nothing_to_do_with_each_other_are_rounded_to_the_nearest():
    weight = np.random.default_rng(2).normal(size=(8, 16)).astype(np.float32)
    nearest, scale = coded(weight, 0, 127)
    together = rounding.codes_of(weight, 0, scale, np.eye(16, dtype=np.float32)[None], 127)
    np.testing.assert_array_equal(together, nearest)


def test_what_is_zero_stays_zero():
    random = np.random.default_rng(2)
    x = random.normal(size=(100, 8)) @ random.normal(size=(8, 16))
    weight = random.normal(size=(4, 16)).astype(np.float32)
    weight[:, 1::2] = 0
    codes = rounding.codes_of(weight, 0, coded(weight, 0, 127)[1], (x.T @ x).astype(np.float32)[None], 127)
    assert not codes[:, 1::2].any() and codes[:, ::2].all()
