"""The block of channels that kernels work on, by timing."""

import copy

import pytest
import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.measure import blocks
from mmedge.measure.blocks import preferred_block
from mmedge.spec import ArraySpec


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
        (nn.Conv2d(3, 48, 3), (3, 12, 12), {"32", "40", "44", "48"}),
        (nn.Conv1d(3, 20, 3), (3, 30), {"16", "24", "28", "32"}),
        (nn.Linear(6, 20), (6,), {"112", "120", "124", "128"}),
    ):
        block, times = preferred_block(Small(layer), contract(*shape), threads=1)
        assert block in (4, 8, 16) and set(times) == widths and min(times.values()) > 0


@pytest.mark.parametrize(("kernel", "felt"), [(1, 4), (4, 4), (8, 8), (16, 16)])
def test_the_block_that_kernels_work_on_is_found_whatever_a_call_costs_at_any_width(kernel, felt, monkeypatch):
    """Of small layers a call's own cost is most of the time: by shares of the whole, 16 was found where 4 was right."""
    padded = lambda width: kernel * -(-width // kernel)  # noqa: E731
    timed = lambda folder, conv, size, widths, threads: {width: 9 + padded(width) ** 2 / 1000 for width in widths}  # noqa: E731
    monkeypatch.setattr(blocks, "_timed", timed)
    assert preferred_block(Small(nn.Conv1d(3, 20, 3)), contract(3, 30), threads=1)[0] == felt


def test_the_model_is_left_as_it_was():
    module = Small(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    module.layer[1].eval()  # a user's frozen statistics
    before = copy.deepcopy(module.state_dict())
    preferred_block(module, contract(4), threads=1)
    assert not module.layer[0]._forward_hooks
    assert [part.training for part in module.modules()] == [True, True, True, False]
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
