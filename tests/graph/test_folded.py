"""Constant factors behind linear layers: their weights take them up, and INT8 answers alike on both runtimes."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mmedge.backends import onnxruntime_cpu
from mmedge.graph import folded
from tests.graph.runtimes import int8_on_both

EACH = torch.linspace(-1, 1, 64)


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(64, 64), nn.Linear(64, 64), scale

    def forward(self, x):
        return self.last(self.scale(self.first(x)))


@pytest.mark.parametrize(
    "scale", [lambda x: x * 0.5, lambda x: x / 3, lambda x: -x, lambda x: x * EACH], ids=["times", "over", "minus", "each"]
)  # fmt: skip
def test_int8_of_a_layer_with_a_factor_behind_it_gives_the_same_on_both_runtimes(tmp_path, scale):
    torch.manual_seed(0)
    for fp32, one, other in int8_on_both(Scaled(scale), torch.randn(40, 1, 64), tmp_path):
        assert np.allclose(one, other, atol=1e-3)
        assert np.linalg.norm(one - fp32) < 0.3 * np.linalg.norm(fp32)
    assert not {"Mul", "Div", "Neg"} & {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}


# What computes y of x by the weights w and v, [3, 3] and [3], and how many factors go.
CASES = {
    "m = Gemm (x, w, v) y = Mul (m, h)": 1,
    "m = Gemm <transB = 1, alpha = 2.0, beta = 3.0> (x, w, v) y = Mul (v2, m)": 1,
    "m = MatMul (x, w) a = Add (v, m) n = Neg (a) y = Div (n, v2)": 2,
    "m = MatMul (x, w) y = Div (m, h)": 1,
    "m = MatMul (x, w) y = Div (h, m)": 0,
    "m = MatMul (x, w) y = Mul (m, zero)": 0,
    "m = MatMul (x, w) y = Mul (m, rows)": 0,
    "m = MatMul (x, w) y = Mul (m, m)": 0,
    "m = MatMul (x, w) y = Mul (m, x)": 0,
    "m = MatMul (x, w) n = MatMul (m, w) y = Mul (n, h)": 0,
    "m = MatMul (x, w) n = Mul (m, h) y = Add (m, n)": 0,
    "m = Gemm (x, w, x) y = Mul (m, h)": 0,
}


@pytest.mark.parametrize("body", CASES, ids=range(len(CASES)))
def test_factors_are_taken_up_and_the_graph_computes_the_same(body):
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[3, 3] x) => (float[3, 3] y)
        <float[3, 3] w = {{1, 2, -3, 4, 5, 6, 7, -8, 9}}, float[3] v = {{1, 2, 3}}, float[3] v2 = {{0.5, -2, 4}},
         float h = {{0.5}}, float[3] zero = {{1, 0, 1}}, float[3, 1] rows = {{1, 2, 3}}> {{ {body} }}
    """)
    sample = {"x": np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)}
    before, nodes = onnxruntime_cpu.session(model.SerializeToString())(sample)["y"], len(model.graph.node)
    assert folded.fold(model) == CASES[body]
    assert len(model.graph.node) == nodes - CASES[body]
    onnx.checker.check_model(model, full_check=True)
    assert np.allclose(onnxruntime_cpu.session(model.SerializeToString())(sample)["y"], before, rtol=1e-5, atol=1e-6)
