"""Layers in two factors of lower rank: where that saves and what the layer gives is kept; else whole, with the reason."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmedge.backends import onnxruntime_cpu
from mmedge.contract import Contract
from mmedge.graph.export import export
from mmedge.measure.cost import params
from mmedge.models import load
from mmedge.progress import Silent
from mmedge.recipe import Controls, Distill, Model, Prune
from mmedge.spec import ArraySpec, TextSpec
from mmedge.stages import distill, prune
from mmedge.stages.prune import rank
from mmedge.stages.prune.groups import cut, groups_of
from tests.conftest import staged
from tests.stages.prune.conftest import outputs
from tests.stages.prune.test_prune import ANY_LOSS, SHORT, THEIR_TRANSFORMER

CONTRACT = Contract(
    task="classification",
    modalities={"x": ArraySpec(kind="array", shape=(64,)), "t": TextSpec(kind="text", length=6, tokens=256)},
    labels=("a", "b", "c"),
)


class Net(nn.Module):
    """``flat`` gives in all directions alike, ``thin`` in few; ``near``'s weights are read past its call; two are tied."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(256, 32, padding_idx=0)
        self.thin, self.flat, self.near = nn.Linear(64, 96), nn.Linear(96, 96), nn.Linear(96, 64)
        self.tied, self.too = nn.Linear(64, 64), nn.Linear(64, 64)
        self.too.weight = self.tied.weight
        self.out = nn.Linear(96, 3)
        with torch.no_grad():
            self.thin.weight.copy_(torch.randn(96, 8) @ torch.randn(8, 64) / 8 + torch.randn(96, 64) / 40)
            self.flat.weight.copy_(torch.linalg.qr(torch.randn(96, 96))[0])
            self.words.weight.copy_(torch.randn(256, 6) @ torch.randn(6, 32))
            self.words.weight[0] = 0

    def forward(self, x, t):
        h = torch.relu(self.flat(torch.cat([8 * x, self.thin(x)[:, :32]], 1)))
        h = nn.functional.linear(h, self.near.weight, self.near.bias)
        h = self.too(torch.relu(self.tied(h)))
        return self.out(torch.cat([h, self.words(t).mean(1)], 1))


@pytest.fixture
def module():
    torch.manual_seed(0)
    return load.build(Model(factory="theirs:factory"), CONTRACT, factory=Net).eval()


def inputs(count=64):
    torch.manual_seed(1)
    x, t = torch.randn(count, 64), torch.randint(0, 256, (count, 6))
    return {"x": x, "t": t, "present": torch.ones(count, 2, dtype=torch.bool)}


def work(prefer="latency", **more):
    """What ``factored`` asks of a PruneWork; the losses are calls with random inputs."""
    context = SimpleNamespace(progress=Silent(), recipe=SimpleNamespace(prefer=prefer))
    return SimpleNamespace(
        contract=CONTRACT,
        config=Prune(rank=0.5, **more),
        context=context,
        losses_over=lambda student, steps: (student(**inputs())["logits"].sum() for _ in range(steps)),
    )


def test_layers_are_led_through_the_directions_of_what_they_give_and_others_stay_whole_with_the_reason(module):
    before = module(**inputs())["logits"].detach()
    history, left = rank.factored(work(), module)
    assert history == [[load.FACTORED, "inner.thin", 16]]  # half of 64 x 96 weights: 19, by eights
    assert module.inner.thin[0].out_features == 16
    after = module(**inputs())["logits"].detach()
    assert float((after - before).square().mean()) < 0.1 * float(before.var())
    told = {name.removeprefix("inner."): why for name, why in left.items()}
    assert "multiplies nothing" in told["words"] and told["near"] == "the network does not call it as a layer"
    assert told["tied"] == told["too"] == "its weights are another layer's, too"
    assert "of the power of what it gives" in told["flat"] and "out" not in told


@pytest.mark.parametrize("share", [0, 1, -0.5, 2])
def test_a_share_that_is_none_is_told(share):
    with pytest.raises(ValueError, match="rank"):
        Prune(rank=share)


def test_an_embedding_is_in_factors_where_a_size_is_asked_for_and_its_padding_still_gives_nothing(module):
    for asked in (work(budget={"params": 0.5}), work("size")):
        whole = load.build(Model(factory="theirs:factory"), CONTRACT, factory=Net)
        whole.load_state_dict(module.state_dict())
        history, _ = rank.factored(asked, whole)
        assert ["inner.words", 8] in [step[1:] for step in history]
        assert not whole.inner.words(torch.zeros(1, 1, dtype=torch.int64)).any()
        exact, found = (each.inner.words(inputs()["t"]) for each in (module, whole))
        assert torch.allclose(exact, found, atol=1e-4)  # six directions are all that it has


def test_ignored_layers_stay_and_a_network_that_reads_more_than_the_call_keeps_its_layer(module):
    assert rank.factored(work(ignore=("thin",)), module)[0] == []

    class Reads(Net):
        def forward(self, x, t):
            return super().forward(x * (self.thin.in_features == 64), t)

    theirs = load.build(Model(factory="theirs:factory"), CONTRACT, factory=Reads).eval()
    history, left = rank.factored(work(), theirs)
    assert history == [] and left["inner.thin"].startswith("the network does not run with two layers in its place")


def test_factors_are_narrowed_rebuilt_and_exported_like_any_layer(module, tmp_path):
    history, _ = rank.factored(work(), module)
    found, _ = groups_of(module, CONTRACT, Prune())
    history += cut(module, CONTRACT, found, {group.root: -(-len(group.units) // 2) for group in found})
    again = load.build(Model(factory="theirs:factory"), CONTRACT, factory=Net, fresh=True)
    load.apply_history(again, history, CONTRACT)
    again.load_state_dict(module.state_dict())
    assert again.inner.thin[0].out_features == 8 and params(again) == params(module)
    expected = module(**inputs(3))["logits"].detach()
    assert torch.equal(again.eval()(**inputs(3))["logits"], expected)
    export(again, CONTRACT, tmp_path / "m.onnx")
    feed = {name: x.numpy() for name, x in inputs(3).items()}
    found = torch.from_numpy(onnxruntime_cpu.session(tmp_path / "m.onnx")(feed)["logits"])
    assert torch.allclose(found, expected, atol=1e-4)


def test_outputs_too_many_to_look_at_are_led_through_the_weights_own_directions():
    torch.manual_seed(0)
    layer = nn.Linear(16, 40)
    factors, kept = rank.factors_of("out", layer, 16, None)
    assert kept == pytest.approx(1) and torch.allclose(factors.second @ factors.first, layer.weight, atol=1e-5)


@pytest.mark.long
def test_a_users_transformer_in_factors_is_recovered_and_rebuilt_and_whole_where_that_is_not_kept(
    finished,
    context,
    untimed,
    tmp_path,
    saved,
    monkeypatch,
):
    (tmp_path / "their_fusion.py").write_text(THEIR_TRANSFORMER.replace("32, 4, 64", "32, 4, 256"))
    section = Distill(
        model=Model(factory="their_fusion:Fusion"), train=SHORT, controls=Controls(no_distillation=False, seeds=1)
    )
    context = replace(context, recipe=context.recipe.model_copy(update={"distill": section}))
    parent = staged(distill.distill, finished.artifact("teacher"), section, context, tmp_path / "d")
    monkeypatch.setattr(rank, "_LEAST", 0.1)
    config = Prune(macs=0.8, rank=0.6, allocation="uniform", train=SHORT, **ANY_LOSS)
    made = staged(prune.prune, parent, config, context, tmp_path / "p")
    again = context.rebuild(made)
    assert (
        isinstance(again.inner.trunk.layers[0].linear1, nn.Sequential) and made.meta["macs"] < 0.8 * parent.meta["macs"]
    )
    assert any(note.startswith("layers in two factors: trunk.layers.0.linear1") for note in made.meta["notes"])
    assert torch.equal(saved[-1], outputs(again, context.dataset.test))
    strict = config.model_copy(update={"max_drop": 0.0, "max_subset_drop": 0.0, "on_miss": "keep-parent"})
    kept = staged(prune.prune, parent, strict, replace(context, key="w"), tmp_path / "q")
    assert any(note.startswith("all layers stay whole: in factors, ") for note in kept.meta["notes"])
