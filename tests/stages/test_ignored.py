"""Layers and branches that a recipe names are looked for before anything is trained, whatever characters they have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmedge import recipe as recipes
from mmedge.contract import Contract
from mmedge.stages.ignored import ignored_faults
from tests.conftest import parsed

CONTRACT = Contract.model_validate(
    {"task": "classification", "labels": ["a", "b"], "modalities": {"x": {"kind": "array", "shape": [3]}}}
)


class Odd(nn.Module):
    """Names with characters that mean something elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("enc$1", nn.Linear(3, 8))
        self.add_module("a b", nn.Sequential(nn.ReLU(), nn.Linear(8, 8)))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self._modules["a b"](self._modules["enc$1"](x))))


def found(values, prune=(), quantize=(), factory=Odd):
    values["distill"]["model"] = {"factory": "nets:net"} if factory else {"embedding": 4, "hidden": 4}
    values["distill"]["loss"] = {}
    values["prune"]["ignore"], values["quantize"]["ignore"] = list(prune), list(quantize)
    return ignored_faults(parsed(values), CONTRACT, lambda model: factory)


def test_names_that_the_network_has_are_no_fault(values):
    assert not found(values, ["enc$1", "a b.1", "inner.head"], ["enc$1", "a b", "inner.a b.1", "x", "fusion"])
    assert not found(values, ["encoders.x.layers.1"], ["encoders", "encoders.x", "x"], factory=None)


@pytest.mark.parametrize("name", ["$", "enc", "enc$", "[/x]", "A b", "heads"])
def test_names_that_it_has_not_are_told_each_with_those_that_there_are(values, name):
    faults = found(values, [name], [name])
    assert [fault.module for fault in faults] == ["prune.ignore", "quantize.ignore"]
    assert all(repr(name) in fault.what and "there are enc$1, a b.1, head" in fault.todo for fault in faults)


def test_a_node_of_the_graph_may_be_named_too(values):
    (fault,) = found(values, quantize=["node_linear", "node_linear_9"])
    assert "'node_linear_9'" in fault.what


def test_branches_and_a_ranking_that_the_network_lacks_are_told(values):
    """They ended the run at the stage, behind a teacher and a student that had been trained."""
    values["prune"] |= {"branches": {"x": 0.5, "fusoin": 0.0}, "importance": "bn"}
    importance, branches = found(values)
    assert (importance.module, branches.module) == ("prune.importance", "prune.branches")
    assert "has none" in importance.what and "no branch 'fusoin'" in branches.what and "there are x" in branches.what
    values["prune"] |= {"branches": {"x": 0.5}, "importance": "l2"}
    assert not found(values) and not found(values, factory=lambda: nn.Flatten())  # that none can be cut is the stage's


def test_a_recipe_that_names_none_builds_nothing(values):
    assert isinstance(parsed(values), recipes.Recipe) and not found(values, factory=lambda: 1 / 0)
