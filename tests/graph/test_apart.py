"""What OpenVINO joins and answers wrongly is held apart: INT8 gives the same on both runtimes."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mmedge.graph import apart
from tests.graph.runtimes import int8_on_both


class Half(nn.Module):
    def forward(self, x):
        return (x + 1) * 0.5


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.last = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        return self.last(self.shared(torch.relu(self.shared(x))) * 0.5)


def normed():
    norm = nn.BatchNorm1d(64)
    for each in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(each, 0.5)
    return norm


LINEAR = {
    "norm": lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), normed(), nn.Linear(64, 64)),
    "norm-relu": lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), normed(), nn.ReLU(), nn.Linear(64, 64)),
    "sum": lambda: nn.Sequential(nn.Linear(64, 64), Half(), nn.Linear(64, 64)),
    "tied": Tied,
}
IMAGES = {
    "signed": lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.AvgPool2d(3, 2, 1), nn.Conv2d(8, 8, 3)),
    "unsigned": lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AvgPool2d(3, 2, 1), nn.Conv2d(8, 8, 3)),
}


@pytest.mark.parametrize(
    ("made", "shape"), [*((m, (1, 64)) for m in LINEAR.values()), *((m, (1, 8, 16, 16)) for m in IMAGES.values())],
    ids=[*LINEAR, *IMAGES],
)  # fmt: skip
def test_int8_gives_the_same_on_both_runtimes(tmp_path, made, shape):
    torch.manual_seed(0)
    for fp32, one, other in int8_on_both(made(), torch.randn(40, *shape), tmp_path):
        assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(fp32)
        assert np.linalg.norm(other - fp32) < 0.3 * np.linalg.norm(fp32)


def test_what_is_right_as_it_is_stays():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 19]>
        g (float[2, 2] x, float[1, 2, 2] t, float[1, 1, 4, 4] i) => (float[2, 2] a, float[2, 2] b, float[1, 2, 2] c, float k, float l, float m, float n)
        <int8[2, 2] w = {1, 2, 3, 4}, float h = {0.5}, float s = {0.1}, uint8 z = {128}, uint8 o = {0}> {
            v = DequantizeLinear (w, s)
            p = MatMul (x, v) ph = Mul (p, h) pq = QuantizeLinear (ph, s, z) a = DequantizeLinear (pq, s, z)
            r = MatMul (x, v) rx = Mul (r, x) rq = QuantizeLinear (rx, s, z) b = DequantizeLinear (rq, s, z)
            u = MatMul (t, v) uh = Mul (u, h) uq = QuantizeLinear (uh, s, z) c = DequantizeLinear (uq, s, z)
            iq = QuantizeLinear (i, s, z) id = DequantizeLinear (iq, s, z)
            jq = QuantizeLinear (i, s, o) jd = DequantizeLinear (jq, s, o)
            k = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (id)
            l = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (id)
            m = AveragePool <kernel_shape = [3, 3], count_include_pad = 1> (id)
            n = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (jd)
        }
    """)
    assert apart.hold_apart(model) == 2
    assert [node.input[0] for node in model.graph.node if node.op_type == "Max"] == ["ph", "id"]
