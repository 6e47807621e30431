"""Whole blocks that go: the least influential of a stack, and a network without them is rebuilt bit for bit."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.models import load
from mmedge.models.skipped import skip
from mmedge.progress import Silent
from mmedge.recipe import Model, Prune
from mmedge.spec import ArraySpec
from mmedge.stages.prune import depth
from mmedge.stages.prune.groups import cut, groups_of
from tests.models.test_skipped import Layer

CONTRACT = Contract(
    task="classification", modalities={"x": ArraySpec(kind="array", shape=(8,))}, labels=("a", "b", "c")
)
STRENGTHS = (1.0, 0.01, 2.0, 0.1)


class Stack(nn.Module):
    """Layers of which the second adds least and the fourth little."""

    def __init__(self):
        super().__init__()
        self.layers, self.out = nn.Sequential(*(Layer() for _ in STRENGTHS)), nn.Linear(8, 3)
        with torch.no_grad():
            for layer, strength in zip(self.layers, STRENGTHS):
                layer.b.weight.mul_(strength)
                layer.b.bias.zero_()

    def forward(self, x):
        return self.out(self.layers(x))


@pytest.fixture
def work(monkeypatch):
    """What ``shallower`` asks of a PruneWork; outputs are those of 16 random samples."""
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))

    def outputs(contract, few, predict):
        with torch.no_grad():
            return {"whole": (None, {"logits": predict(x).numpy()})}

    monkeypatch.setattr(depth, "split_outputs", outputs)
    monkeypatch.setattr(depth, "graph_predictor", lambda run, *_: run)
    monkeypatch.setattr(
        depth, "module_run", lambda m: lambda x: m.eval()(x=x, present=torch.ones(16, 1).bool())["logits"]
    )
    validation = type("Split", (), {"__len__": lambda self: 16, "taken": lambda self, rows: self})()
    context = SimpleNamespace(progress=Silent())
    remembered = lambda what, key, kind, compute: compute()  # noqa: E731
    return lambda share, **more: SimpleNamespace(
        contract=CONTRACT,
        config=Prune(depth=share, **more),
        validation=validation,
        context=context,
        remembered=remembered,
        refused={},
    )


@pytest.mark.parametrize(("share", "gone"), [(0.2, []), (0.3, [1]), (0.6, [1, 3])])
def test_the_blocks_without_which_outputs_change_least_go_first_and_no_more_than_the_share(work, share, gone):
    torch.manual_seed(0)
    section = Model(factory="theirs:factory")
    module = load.build(section, CONTRACT, factory=Stack).eval()
    history = depth.shallower(work(share), module)
    assert [(what, name.rpartition(".")[2]) for what, name, _ in history] == [(load.SKIP, str(n)) for n in gone]
    again = load.build(section, CONTRACT, factory=Stack, fresh=True)
    load.apply_history(again, history, CONTRACT)
    again.load_state_dict(module.state_dict())
    inputs = {"x": torch.randn(3, 8), "present": torch.ones(3, 1, dtype=torch.bool)}
    with torch.no_grad():
        assert torch.equal(*(each.eval()(**inputs)["logits"] for each in (module, again)))


class Plain(nn.Module):
    """A block without a shortcut: what comes before it and what comes behind it have channels of their own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.b(torch.relu(self.a(x))))


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.out = nn.Sequential(*(Plain() for _ in range(3))), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.layers(x))


def test_channels_cut_after_a_block_without_a_shortcut_went_are_rebuilt():
    section = Model(factory="theirs:factory")
    module = load.build(section, CONTRACT, factory=Chain).eval()
    history = [[load.SKIP, "inner.layers.1", False]]
    skip(module, {"inner.layers.1": False})
    found, _ = groups_of(module, CONTRACT, Prune())
    history += cut(module, CONTRACT, found, {group.root: len(group.units) // 2 for group in found})
    again = load.build(section, CONTRACT, factory=Chain, fresh=True)
    load.apply_history(again, history, CONTRACT)
    again.load_state_dict(module.state_dict())
    assert again.inner.layers[2].a.in_features == 4


def test_no_more_of_a_branch_s_blocks_go_than_its_own_share(work):
    def gone(branch):
        module = load.build(Model(factory="theirs:factory"), CONTRACT, factory=Stack).eval()
        return len(depth.shallower(work(0.9, branches={branch: 0.0}), module))

    assert (gone("x"), gone("out")) == (0, 3)


def test_blocks_of_ignored_layers_stay_and_those_whose_absence_gives_no_number(work, monkeypatch):
    module = load.build(Model(factory="theirs:factory"), CONTRACT, factory=Stack).eval()
    history = depth.shallower(work(0.9, ignore=("layers.1.a", "inner.layers.2")), module)
    assert {name for _, name, _ in history} == {"inner.layers.0", "inner.layers.3"}
    monkeypatch.setattr(depth, "_distance", lambda *_: float("nan"))
    again = load.build(Model(factory="theirs:factory"), CONTRACT, factory=Stack).eval()
    mine = work(0.9)
    assert depth.shallower(mine, again) == []
    assert mine.refused == {f"inner.layers.{number}": "the network does not run without it" for number in range(4)}


class Placed(nn.Module):
    """Places in a table, as Whisper's encoder has them: frozen where they are built, and not where weights are loaded."""

    def __init__(self, frozen=True):
        super().__init__()
        self.inside, self.places, self.out = nn.Linear(8, 16), nn.Embedding(1, 16), nn.Linear(16, 3)
        self.places.requires_grad_(not frozen)

    def forward(self, x):
        places = self.places(torch.zeros(len(x), dtype=torch.long))
        return self.out(torch.relu(self.inside(x) + places))


def test_what_is_frozen_as_it_is_built_is_cut_as_it_was_where_it_was_not():
    section = Model(factory="theirs:factory")
    module = load.build(section, CONTRACT, factory=lambda: Placed(frozen=False)).eval()
    found, _ = groups_of(module, CONTRACT, Prune())
    history = cut(module, CONTRACT, found, {group.root: len(group.units) // 2 for group in found})
    again = load.build(section, CONTRACT, factory=Placed, fresh=True)
    load.apply_history(again, history, CONTRACT)
    again.load_state_dict(module.state_dict())
    assert again.inner.places.weight.shape == (1, 8)
    fresh = load.build(section, CONTRACT, factory=Placed, fresh=True)
    assert groups_of(fresh, CONTRACT, Prune())[0] and not fresh.inner.places.weight.requires_grad
