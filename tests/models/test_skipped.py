"""Blocks that a network could do without: which there are, and what comes out where one is gone."""

import torch
from torch import nn

from mmedge.models.skipped import Skipped, skip, stacks


class Layer(nn.Module):
    def __init__(self, wrapped=False, outputs=8):
        super().__init__()
        self.a, self.b, self.wrapped = nn.Linear(8, 4), nn.Linear(4, outputs), wrapped

    def forward(self, x, mask=None):
        y = self.b(torch.relu(self.a(x)))
        y = x + y if y.shape == x.shape else y
        return (y,) if self.wrapped else y


class Network(nn.Module):
    """Three layers that give tuples, a stage whose first block is wider, and a stack of single layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer(wrapped=True) for _ in range(3))
        self.stage = nn.Sequential(Layer(outputs=8), Layer(), nn.ReLU())
        self.last = nn.Sequential(Layer(outputs=6), nn.Linear(6, 3), nn.ReLU())

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, mask=None)[0]
        return self.last(self.stage(x))


def test_stacks_are_blocks_of_one_class_that_give_what_they_are_given():
    found = stacks(Network(), {"x": torch.zeros(2, 8)})
    assert found == {
        "layers": {f"layers.{number}": True for number in range(3)},
        "stage": {"stage.0": False, "stage.1": False},
    }


def test_without_blocks_the_others_compute_on_what_was_handed_on():
    module, x = Network().eval(), torch.randn(2, 8)
    expected = module.last(module.stage[2](module.layers[1](x)[0]))
    skip(module, {"layers.0": True, "layers.2": True, "stage.0": False, "stage.1": False})
    assert torch.equal(module(x), expected) and isinstance(module.layers[0], Skipped)
