"""The network of towers: unit vectors of one length, zeros for what is absent, k outputs a sample, and one's own network."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.models import load
from mmedge.recipe import Model
from mmedge.spec import ArraySpec
from mmedge.tasks import Head

TOWERS = {"picture": ("upper", "lower"), "text": ("name",)}
CONTRACT = Contract(
    modalities={name: ArraySpec(kind="array", shape=(6,)) for name in ("upper", "lower", "name")},
    heads={"embeddings": Head(task="retrieval", towers=TOWERS)},
).with_dimensions(5)
MODEL = Model(dimensions=5, embedding=8, hidden=8)


def lengths(output):
    return output.unflatten(1, (2, 5)).norm(dim=2)


def inputs(batch=4):
    torch.manual_seed(0)
    return {name: torch.randn(batch, 6) for name in CONTRACT.modalities}


def test_vectors_are_as_long_as_the_temperature_says_and_absent_towers_are_zero():
    module = load.build(MODEL, CONTRACT).eval()
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 0]], dtype=torch.bool)
    with torch.no_grad():
        output = module(present=present, **inputs())["embeddings"]
    long = math.sqrt(1 / 0.07)
    expected = torch.tensor([[long, long], [long, long], [0, long], [long, 0]])
    torch.testing.assert_close(lengths(output), expected)
    with torch.no_grad():
        other = module(present=present, **inputs() | {"lower": torch.zeros(4, 6)})["embeddings"]
    assert torch.equal(other[1], output[1]) and not torch.equal(other[0], output[0])  # an absent half has no influence
    module.vectors.log_scale.data.fill_(50.0)  # the lowest temperature is .01
    torch.testing.assert_close(lengths(module(present=present, **inputs())["embeddings"])[0, 0], torch.tensor(10.0))


def test_k_outputs_a_sample_are_those_of_k_calls():
    module = load.build(MODEL, CONTRACT).eval()
    sides = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1]], dtype=torch.bool)
    with torch.no_grad():
        together = module(present=sides.expand(4, 3, 3), **inputs())["embeddings"].unflatten(0, (4, 3))
        for k, side in enumerate(sides):
            alone = module(present=side.expand(4, 3), **inputs())["embeddings"]
            torch.testing.assert_close(together[:, k], alone)


class Own(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.picture, self.text = nn.Linear(12, width), nn.Linear(6, width)

    def forward(self, upper, lower, name):
        return torch.cat([self.picture(torch.cat([upper, lower], 1)), self.text(name)], 1)


@pytest.mark.parametrize("ready", [False, True])
def test_a_network_of_ones_own_gets_a_temperature_unless_it_has_learnt_one(tmp_path, ready):
    own, file = Own(), tmp_path / "own.pt"
    torch.save(own.state_dict(), file)
    section = Model(factory="own:Own", dimensions=5, weights=file if ready else None)
    means = {name: np.zeros(6, np.float32) for name in CONTRACT.modalities}
    module = load.build(section, CONTRACT, factory=Own, means=means).eval()
    load.check_forward(module, CONTRACT, "own")
    present = torch.tensor([[1, 1, 1], [0, 0, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    with torch.no_grad():
        output = module(present=present, **inputs())["embeddings"]
        plain = own(**inputs())
    assert (output[1, :5] == 0).all() and (output[2, 5:] == 0).all()
    if ready:
        torch.testing.assert_close(output[0], plain[0])
    else:
        torch.testing.assert_close(lengths(output)[0], torch.full((2,), math.sqrt(1 / 0.07)))


def test_a_network_of_another_width_is_told():
    section = Model(factory="own:Own", args={"width": 7}, dimensions=5)
    with pytest.raises(UsageError, match=r"has shape \[2, 14\] for a batch of 2; it must be \[2, 10\]"):
        load.check_forward(load.build(section, CONTRACT, factory=Own), CONTRACT, "own")
