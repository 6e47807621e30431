"""Blocks that compute again what they do not hold: the same weights and statistics of less memory."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from mmedge.errors import UsageError
from mmedge.training.loop.checkpointing import blocks, checkpointed


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.3)

    def forward(self, x, scale=1.0):
        return x + scale * self.drop(torch.relu(self.norm(self.conv(x)))).tanh()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.stages = nn.Sequential(nn.Sequential(Block(), Block()), nn.Sequential(Block()))
        self.layers = nn.ModuleList([Block()])
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stages(self.stem(x))
        for layer in self.layers:
            x = layer(x, scale=0.5)
        return self.head(x.mean(dim=(2, 3)))


def trained(module, *, asked):
    """(bytes held for the way back, the state) after two steps."""
    optimizer, held = torch.optim.SGD(module.parameters(), 0.1), 0

    def count(x):
        nonlocal held
        held += x.nbytes
        return x

    module.train()
    with checkpointed(module, asked=asked):
        for step in range(2):
            torch.manual_seed(step)
            x = torch.randn(8, 3, 10, 10)
            with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
                loss = module(x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return held, module.state_dict()


def test_weights_and_statistics_are_the_same_of_less_memory():
    torch.manual_seed(0)
    net = Net()
    other = copy.deepcopy(net)
    assert blocks(net) == [*net.stages[0], *net.stages[1], *net.layers]
    held, expected = trained(net, asked=False)
    less, found = trained(other, asked=True)
    assert less < held / 2
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert other.layers[0].norm.num_batches_tracked == 2 and other.layers[0].norm.momentum == 0.1
    assert "forward" not in vars(other.layers[0])  # nothing stays of it


def test_weights_that_are_lent_for_one_call_are_those_that_the_gradient_is_of():
    torch.manual_seed(0)
    net, found = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)) for _ in range(2))), []
    lent = {name: torch.randn_like(x) for name, x in net.state_dict().items()}
    for asked in (False, True):
        x = torch.ones(6, 6, requires_grad=True)
        with checkpointed(net, asked=asked):
            found += torch.autograd.grad(functional_call(net, lent, (x,)).square().sum(), [x])
    assert torch.equal(*found)


def test_a_network_without_blocks_is_told():
    with (
        pytest.raises(UsageError, match=r"no blocks.*\n.*train.checkpointing"),
        checkpointed(nn.Linear(2, 2), asked=True),
    ):
        pass
