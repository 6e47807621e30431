"""What has been learnt elsewhere: frozen, thawed, slower by depth, or changed by small matrices alone."""

from collections import OrderedDict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.errors import UsageError
from mmedge.models import load, lora
from mmedge.models.pretrained import Body
from mmedge.progress import Silent
from mmedge.recipe import Model, Pretrain, Train
from mmedge.recipe.transfer import Lora
from mmedge.training.loop import features
from mmedge.training.loop.batches import Training
from mmedge.training.loop.fit import fit
from mmedge.training.loop.optimizer import optimizer_of, set_rate
from mmedge.training.loop.transfer import idle, transfer_of
from mmedge.training.objectives import Supervised
from mmedge.training.pretexts import pretrained
from tests.conftest import once
from tests.models.pretrained import folders

IDS = torch.randint(4, 10, (24, 8), generator=torch.Generator().manual_seed(0)).numpy()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return once(tmp_path_factory, "pretrained-folders", folders.everything)


@pytest.fixture
def contract():
    return Contract.model_validate(
        {
            "task": "classification",
            "labels": ["a", "b"],
            "modalities": {"name": {"kind": "text", "length": 8, "tokens": 10}},
        }
    )


@pytest.fixture
def module(made, contract):
    torch.manual_seed(0)
    return load.build(Model(encoders={"name": {"hf": made / "bert"}}, embedding=4, hidden=4), contract)


def training(contract, train):
    head = next(iter(contract.heads))
    targets = {head: np.arange(24) % 2}
    split = Samples("train", tuple(map(str, range(24))), {"name": IDS}, np.ones((24, 1), bool), targets, np.arange(24), contract.heads)  # fmt: skip
    return Training(contract, split, replace(split, split="validation"), train, np.arange(24), 0, 0)


def fitted(module, contract, path, **train):
    schedule = Train(batch_size=8, **{"epochs": 3, **train})
    return fit(module, Supervised(contract, schedule), training(contract, schedule), state=path / "state.safetensors", task="x", progress=Silent())  # fmt: skip


def body(module):
    return {name: x.clone() for name, x in module.encoders["name"].body.named_parameters()}


def test_a_pretrained_network_stays_as_it_was_learnt_and_runs_once_a_sample(module, contract, tmp_path):
    before, head = body(module), module.head[1].weight.clone()
    found = fitted(module, contract, tmp_path)
    assert all(torch.equal(x, before[name]) for name, x in body(module).items())
    assert not torch.equal(module.head[1].weight, head)
    assert any("encoders.name.body is frozen, and was run once for each of 48 samples" in note for note in found.notes)
    assert all(p.requires_grad for p in module.parameters())  # what comes next decides for itself


def test_a_head_learns_of_stored_features_what_it_learns_behind_the_network(made, contract, tmp_path, monkeypatch):
    def learned(path):
        torch.manual_seed(0)
        module, rows = load.build(Model(encoders={"name": {"hf": made / "bert"}}, embedding=4, hidden=4), contract), []
        forward = Body.forward
        monkeypatch.setattr(Body, "forward", lambda self, x: rows.append(len(x)) or forward(self, x))
        found = fitted(module, contract, tmp_path / path, epochs=6)
        monkeypatch.setattr(Body, "forward", forward)
        return [record["loss"] for record in found.history], module.state_dict(), sum(rows)

    losses, state, run = learned("stored")
    monkeypatch.setattr(features, "_left_out", lambda module, training: {})
    plain, of_plain, _ = learned("plain")
    assert losses == pytest.approx(plain, rel=1e-4)
    assert run <= 24 + 24 + 2 and not (tmp_path / "stored" / "state.features").exists()
    for name, x in of_plain.items():
        torch.testing.assert_close(state[name], x, rtol=1e-3, atol=1e-4)


def test_a_frozen_network_runs_on_few_texts_at_a_time_and_tells_how_far_it_is(tmp_path):
    """Their few ids hide that its maps are thousands of times as large."""
    seen, told = [], []

    def network(x):
        seen.append(len(x))
        return x[:, :3].float()

    network.to = lambda device: network
    x, index = np.arange(1200).reshape(300, 4), np.arange(0, 300, 2)
    progress = SimpleNamespace(step=lambda *figures: told.append(figures))
    found = features._features(network, x, index, tmp_path / "name-samples.npy", progress)
    np.testing.assert_array_equal(found[index], x[index, :3])
    assert not found[1::2].any() and max(seen) <= 64 and sum(seen) == 151
    assert told[-1] == ("features of name-samples", 150, 150)


def test_it_is_trained_from_the_epoch_that_thaws_it_and_the_best_epoch_is_what_is_kept(module, contract, tmp_path):
    before = body(module)
    found = fitted(module, contract, tmp_path, epochs=4, thaw=3, early_stopping=None)
    moved = any(not torch.equal(x, before[name]) for name, x in body(module).items())
    assert moved == (found.best_epoch >= 3)


def test_a_training_that_was_killed_after_it_thawed_ends_with_the_same_weights(made, contract, tmp_path):
    def fresh():
        torch.manual_seed(0)
        return load.build(Model(encoders={"name": {"hf": made / "bert"}}, embedding=4, hidden=4), contract)

    whole, first, second = fresh(), fresh(), fresh()
    fitted(whole, contract, tmp_path / "whole", epochs=4, thaw=2)
    schedule = Train(batch_size=8, epochs=4, thaw=2)
    seen = []

    def killed(record):
        seen.append(record)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(first, Supervised(contract, schedule), training(contract, schedule), state=tmp_path / "part" / "state.safetensors", task="x", progress=Silent(), log=killed)  # fmt: skip
    fitted(second, contract, tmp_path / "part", epochs=4, thaw=2)
    state = whole.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in second.state_dict().items())


def test_features_are_there_again_after_an_interrupt_and_the_weights_are_the_same(
    made, contract, tmp_path, monkeypatch
):
    def fresh():
        torch.manual_seed(0)
        return load.build(Model(encoders={"name": {"hf": made / "bert"}}, embedding=4, hidden=4), contract)

    def interrupted(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    whole, first, second, schedule = fresh(), fresh(), fresh(), Train(batch_size=8, epochs=3)
    fitted(whole, contract, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(first, Supervised(contract, schedule), training(contract, schedule), state=tmp_path / "state.safetensors", task="x", progress=Silent(), log=interrupted)  # fmt: skip
    rows, forward = [], Body.forward
    monkeypatch.setattr(Body, "forward", lambda self, x: rows.append(len(x)) or forward(self, x))
    fitted(second, contract, tmp_path)
    assert not rows and not (tmp_path / "state.features").exists()
    fitted(first, contract, tmp_path)
    assert not rows, "a training that is over reads its state and runs nothing"
    state = whole.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in second.state_dict().items())


@pytest.mark.parametrize("kind", ["masked", "contrastive"])
def test_a_pretext_behind_a_frozen_network_gets_what_it_asks_for(made, kind, tmp_path):
    """Features of a whole input cannot stand for one of which parts are hidden."""
    row = {"kind": "tabular", "columns": ["a", "b"], "mean": [0, 0], "std": [1, 1]}
    specs = {"name": {"kind": "text", "length": 8, "tokens": 10}, "row": row}
    contract = Contract.model_validate({"task": "classification", "labels": ["a", "b"], "modalities": specs})
    section = Model(encoders={"name": {"hf": made / "bert"}}, embedding=4, hidden=4)
    module, of = load.build(section, contract), training(contract, Train(batch_size=8))
    values = np.random.default_rng(0).normal(size=(24, 2)).astype(np.float32)
    both = replace(of.samples, inputs={"name": IDS, "row": values}, present=np.ones((24, 2), bool))
    context = SimpleNamespace(stage="teacher", progress=Silent(), log=lambda name: lambda record: None)
    of = replace(of, samples=both, validation=replace(both, split="validation"))
    found = pretrained(module, Pretrain(kind=kind, epochs=2), of, section, tmp_path / "state.safetensors", context)
    once_each = any("was run once for each of 48 samples" in note for note in found.notes)
    assert len(found.history) == 2 and once_each == (kind == "contrastive")


def test_rates_and_depth_say_how_fast_each_part_moves(module):
    train = Train(freeze=(), rates={"name": 0.1, "head": 3}, layer_decay=0.5)
    found = transfer_of(module, train).rates
    name = "encoders.name.body.network.network.{}.weight"
    assert found[name.format("encoder.layer.1.output.dense")] == pytest.approx(0.1)
    assert found[name.format("encoder.layer.0.output.dense")] == pytest.approx(0.05)
    assert found[name.format("embeddings.word_embeddings")] == pytest.approx(0.025)
    assert found["head.1.weight"] == 3 and "fusion.0.weight" not in found
    optimizer = optimizer_of(module, train, found)
    assert set_rate(optimizer, train, 99, 100) > 0
    rates = {group["rate"]: group["lr"] for group in optimizer.param_groups}
    assert rates[3.0] == pytest.approx(3 * rates[1.0]) and min(rates) == pytest.approx(0.025)


def test_blocks_that_have_names_lie_as_deep_as_numbered_ones():
    """torchvision's and timm's DenseNets give each block of a Sequential a name."""
    blocks = nn.Sequential(OrderedDict(first=nn.Linear(2, 2), second=nn.Linear(2, 2), third=nn.Linear(2, 2)))
    found = transfer_of(nn.Sequential(Body(blocks, "mean", None)), Train(freeze=(), layer_decay=0.5)).rates
    rates = {"0.network.first.weight": 0.25, "0.network.second.weight": 0.5}
    assert {name: rate for name, rate in found.items() if name.endswith("weight")} == rates


def test_an_encoder_that_no_adapter_goes_beside_is_told(made):
    """BERT's layers are called query and value, those of a ViT q_proj and v_proj."""
    specs = {
        "name": {"kind": "text", "length": 8, "tokens": 10},
        "picture": {"kind": "image", "height": 16, "width": 16},
    }
    contract = Contract.model_validate({"task": "classification", "labels": ["a", "b"], "modalities": specs})
    model = Model(encoders={"name": {"hf": made / "bert"}, "picture": {"hf": made / "vit"}}, embedding=4, hidden=4)
    for layers, told in ((("query", "value"), True), (("query", "q_proj"), False)):
        module, train = load.build(model, contract), Train(lora=Lora(rank=2, layers=layers))
        transfer_of(module, train)
        notes = list(idle(module, train))
        assert bool(notes) == told and all("no layer of encoders.picture.body" in note for note in notes)
        assert all("q_proj" in note for note in notes)


def test_adapters_learn_beside_frozen_layers_and_are_gone_at_the_end(module, contract, tmp_path):
    before, names = body(module), list(module.state_dict())
    fitted(module, contract, tmp_path, lora={"rank": 2, "layers": ["query"]})
    changed = {name for name, x in body(module).items() if not torch.equal(x, before[name])}
    assert list(module.state_dict()) == names
    assert changed == {f"network.network.encoder.layer.{n}.attention.self.query.weight" for n in (0, 1)}


def test_beside_adapters_nothing_of_the_network_is_trained(made):
    contract = Contract.model_validate(
        {
            "task": "classification",
            "labels": ["a", "b"],
            "modalities": {"p": {"kind": "image", "height": 16, "width": 16}},
        }
    )
    module = load.build(Model(encoders={"p": {"hf": made / "vit"}}), contract)
    layer = next(n.rpartition(".")[2] for n, m in module.encoders["p"].body.named_modules() if isinstance(m, nn.Linear))
    transfer_of(module, Train(lora={"layers": [layer]})).begin(module, 0)
    module.train()
    trained = [name for name, p in module.encoders["p"].body.named_parameters() if p.requires_grad]
    assert trained and all(name.endswith(("down.weight", "up.weight")) for name in trained)
    assert not module.encoders["p"].body.training


@pytest.mark.parametrize(
    ("bodies", "todo"), [([torch.nn.Conv1d(1, 1, 1)], "have no linear layers"), ([], "that train.freeze keeps")]
)
def test_why_nothing_can_have_an_adapter_is_told(bodies, todo):
    with pytest.raises(UsageError) as told:
        lora.adapt(bodies, Lora())
    assert todo in told.value.todo


def test_a_merged_layer_gives_what_its_adapter_gave():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 3))
    lora.adapt([body], Lora(rank=2, layers=("0",)))
    nn.init.normal_(body[0].up.weight)
    x = torch.randn(5, 4)
    wanted = body(x)
    lora.merge(body)
    assert isinstance(body[0], nn.Linear) and torch.allclose(body(x), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"freeze": ["nmae"]}, r"no encoder or layer 'nmae' \(did you mean 'name'"),
        (
            {"lora": {"layers": ["qeury"]}},
            r"no linear layer of the pretrained encoders is called 'qeury' \(did you mean 'query'",
        ),
        ({"thaw": {"head": 2}}, "'head' is not frozen"),
    ],
)
def test_a_name_that_no_layer_has_is_told(module, train, told):
    with pytest.raises(UsageError, match=told):
        transfer_of(module, Train(**train))


@pytest.mark.parametrize(
    ("encoders", "train", "told"),
    [
        (True, {"thaw": 9}, ["thaw names epoch 9 of 2: what is frozen"]),
        (True, {"thaw": {"name": 3}}, ["thaw names epoch 3 of 2: name"]),
        (True, {"thaw": 2, "layer_decay": 0.8}, []),
        (False, {"layer_decay": 0.8}, ["layer_decay slows the blocks of pretrained encoders"]),
        (False, {}, []),
    ],
)
def test_what_a_schedule_says_and_nothing_follows_is_a_note_of_the_run(made, contract, tmp_path, encoders, train, told):
    model = Model(encoders={"name": {"hf": made / "bert"}} if encoders else {}, embedding=4, hidden=4)
    found = fitted(load.build(model, contract), contract, tmp_path, epochs=2, **train)
    notes = [note for note in found.notes if note.startswith("train.")]
    assert len(notes) == len(told) and all(part in note for part, note in zip(told, notes))
