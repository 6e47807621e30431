"""The block of channels that kernels work on, by timing."""

import torch
from torch import nn

from mmedge.measure.blocks import preferred_block
from mmedge.spec import ArraySpec, Contract


class Small(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, present, x):
        return {"logits": self.layer(x)}


def contract(*shape):
    return Contract(task="classification", modalities={"x": ArraySpec(kind="array", shape=shape)}, labels=("a", "b"))


def test_a_block_is_measured_at_widths_around_that_of_the_costliest_layer():
    for layer, shape, widths in (
        (nn.Conv2d(3, 48, 3), (3, 12, 12), {"40", "44", "48"}),
        (nn.Conv1d(3, 20, 3), (3, 30), {"24", "28", "32"}),
        (nn.Linear(6, 20), (6,), {"120", "124", "128"}),
    ):
        block, times = preferred_block(Small(layer), contract(*shape), threads=1)
        assert block in (4, 8, 16) and set(times) == widths and min(times.values()) > 0


def test_the_model_is_left_as_it_was():
    module = Small(nn.Linear(4, 4))
    preferred_block(module, contract(4), threads=1)
    assert not module.layer._forward_hooks and torch.is_tensor(module.layer.weight)
