"""Linear layers without a bias whose outputs get codes: both runtimes answer the same."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mmedge.graph import biased, precision
from tests.graph.runtimes import int8_on_both


@pytest.mark.parametrize("between", [nn.Identity(), nn.ReLU(), nn.ReLU6()], ids=["nothing", "relu", "relu6"])
@pytest.mark.parametrize("first", [nn.Identity(), nn.LayerNorm(64)], ids=["nncf", "attention"])
def test_layers_without_a_bias_give_the_same_on_both_runtimes(tmp_path, first, between):
    torch.manual_seed(0)
    net = nn.Sequential(first, nn.Linear(64, 64, bias=False), between, nn.Linear(64, 64, bias=False))
    outputs = int8_on_both(net, torch.randn(40, 1, 64), tmp_path)
    assert precision.int8_kernels(precision.optimized(tmp_path / "int8.onnx")) == {"QGemm": 2}
    for _, one, other in outputs:
        assert np.allclose(one, other, atol=1e-3)


def test_what_has_an_uneven_bias_stays_float_or_has_three_axes_stays_as_it_is():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[2, 2] x, float[1, 2, 2] t) => (float[2, 2] a, float[2, 2] b, float[1, 2, 2] c, float[2, 2] d)
        <int8[2, 2] w = {1, 2, 3, 4}, float[2] bias = {1, 2}, float s = {0.1}, int8 z = {0}> {
            v = DequantizeLinear (w, s, z)
            m = MatMul (x, v) k = Add (m, bias) kq = QuantizeLinear (k, s, z) a = DequantizeLinear (kq, s, z)
            b = MatMul (x, v)
            n = MatMul (t, v) nq = QuantizeLinear (n, s, z) c = DequantizeLinear (nq, s, z)
            o = MatMul (x, v) oq = QuantizeLinear (o, s, z) d = DequantizeLinear (oq, s, z)
        }
    """)
    assert biased.make_uneven(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert [list(node.output) for node in model.graph.node if node.op_type == "Gemm"] == [["o"]]
