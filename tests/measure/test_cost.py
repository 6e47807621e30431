"""Costs against a count by hand."""

import pytest
import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.measure.cost import macs, params
from mmedge.spec import ArraySpec


def test_parameters_and_macs_of_a_convolution_and_a_matrix_are_those_counted_by_hand():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.out = nn.Conv2d(2, 5, 3, 1, 1), nn.BatchNorm2d(5), nn.Linear(5 * 6 * 4, 3)

        def forward(self, present, x):
            return {"logits": self.out(torch.flatten(self.norm(self.conv(x)), 1))}

    contract = Contract(
        task="classification", modalities={"x": ArraySpec(kind="array", shape=(2, 6, 4))}, labels=("a", "b", "c")
    )
    assert params(Net()) == (2 * 5 * 9 + 5) + (5 + 5) + (120 * 3 + 3)
    assert macs(Net(), contract) == 2 * 5 * 9 * 24 + 120 * 3


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_each_step_of_a_recurrent_layer_is_counted(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = kind(4, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, present, x):
            return {"logits": self.out(self.layer(x)[0][:, -1])}

    contract = Contract(
        task="classification", modalities={"x": ArraySpec(kind="array", shape=(20, 4))}, labels=("a", "b", "c")
    )
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    assert macs(Net(), contract) == 20 * gates * (4 * 6 + 6 * 6) + 6 * 3


def test_a_fused_transformer_layer_is_counted_like_its_parts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.out = nn.Linear(8, 3)

        def forward(self, present, x):
            return {"logits": self.out(self.layer(x).mean(dim=1))}

    contract = Contract(
        task="classification", modalities={"x": ArraySpec(kind="array", shape=(5, 8))}, labels=("a", "b", "c")
    )
    projections, attention, widths = 5 * 4 * 8 * 8, 2 * 5 * 5 * 8, 2 * 5 * 8 * 16
    assert macs(Net(), contract) == projections + attention + widths + 8 * 3
