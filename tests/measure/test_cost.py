"""Costs against a count by hand."""

import torch
from torch import nn

from mmedge.measure.cost import macs, params
from mmedge.spec import ArraySpec, Contract


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
