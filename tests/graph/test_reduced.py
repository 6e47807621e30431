"""Codes behind a mean of tokens: both runtimes answer the same."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mmedge.graph import reduced
from tests.graph.runtimes import int8_on_both


class Mean(nn.Module):
    """Tokens whose norm has a channel far beyond the others, their mean, and a layer that reads it."""

    def __init__(self, far, biased):
        super().__init__()
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 8)
        with torch.no_grad():
            self.norm.weight[:] = 1 + 0.3 * torch.randn(64)
            self.norm.weight[3] *= far
            self.norm.bias[:] = biased * torch.randn(64)

    def forward(self, x):
        return self.head(self.norm(x).mean(1))


@pytest.mark.parametrize(("far", "biased"), [(30, True), (2, False)], ids=["far_channel", "norm_without_bias"])
def test_the_mean_of_tokens_gives_the_same_on_both_runtimes(tmp_path, far, biased):
    torch.manual_seed(0)
    x = torch.randn(40, 1, 12, 64) + torch.randn(40, 1, 1, 64)
    outputs = int8_on_both(Mean(far, biased), x, tmp_path)
    model = onnx.load(tmp_path / "int8.onnx")
    assert {"QuantizeLinear", "Squeeze"} <= {node.op_type for node in model.graph.node}
    for _, one, other in outputs:
        assert np.allclose(one, other, atol=1e-3)


def test_axes_that_are_kept_or_computed_stay_as_they_are():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[1, 3, 4] x, int64[1] a) => (float[1, 1, 2] y, float z) <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, int64[1] one = {1}>
        { k = ReduceMean <keepdims = 1> (x, one) y = MatMul (k, w) m = ReduceMax <keepdims = 0> (x, a) z = MatMul (m, w) }
    """)
    assert reduced.keep_axes(model) == 0
