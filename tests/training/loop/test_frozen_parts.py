"""Frozen parts are run once for each input, and training sees what it would have seen without that."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.models.load import Wrapped
from mmedge.progress import Silent
from mmedge.recipe import Train
from mmedge.training.loop import frozen_parts
from mmedge.training.loop.batches import Training
from mmedge.training.loop.fit import fit
from mmedge.training.loop.frozen_parts import computed_once, frozen_in
from mmedge.training.objectives import Supervised

CONTRACT = Contract.model_validate(
    {
        "task": "classification",
        "modalities": {
            "words": {"kind": "text", "length": 6, "tokens": 30},
            "values": {"kind": "array", "shape": [3, 16]},
        },
        "labels": ["a", "b", "c"],
    }
)


class Pretrained(nn.Module):
    """A BERT of transformers' code, and convolutions that are asked for their features by another name than forward."""

    def __init__(self, frozen=True, evaluated=True):
        super().__init__()
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
        self.bert = BertModel(BertConfig(vocab_size=30, max_position_embeddings=8, **sizes))
        self.maps = Maps()
        self.head = nn.Sequential(nn.Linear(64 + 8, 16), nn.ReLU(), nn.Linear(16, 3))
        self.evaluated, self.calls = evaluated, {"bert": [], "maps": []}
        for part in (self.bert, self.maps):
            part.requires_grad_(not frozen)
        inner = self.bert.encoder.forward
        self.bert.encoder.forward = lambda x, *a, **k: (self.calls["bert"].append(len(x)), inner(x, *a, **k))[1]

    def train(self, mode=True):
        super().train(mode)
        if self.evaluated:
            self.bert.eval(), self.maps.eval()
        return self

    def forward(self, words, values):
        read = self.bert(input_ids=words, attention_mask=(words > 0).long()).last_hidden_state[:, 0]
        return self.head(torch.cat([read, self.maps.features(values)], dim=1))


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(3, 256, 5), nn.BatchNorm1d(256), nn.Conv1d(256, 256, 5), nn.Conv1d(256, 8, 8)
        )

    def features(self, x):
        return self.layers(x).flatten(1)


def samples(split, count, seed):
    rng = np.random.default_rng(seed)
    return Samples(
        split,
        tuple(map(str, range(count))),
        {
            "words": rng.integers(1, 30, (count, 6)),
            "values": rng.standard_normal((count, 3, 16)).astype(np.float32),
        },
        np.ones((count, 2), bool),
        {"logits": rng.integers(0, 3, count)},
        np.arange(count),
        CONTRACT.heads,
    )


def trained(folder, network, epochs=4, **schedule):
    torch.manual_seed(3)
    train = Train(epochs=epochs, batch_size=8, augment={"values": {"shift": 2}}, views=2, **schedule)
    means = {"words": torch.zeros(6, dtype=torch.int64), "values": torch.zeros(3, 16)}
    module = Wrapped(network, {"words": "words", "values": "values"}, means, {"logits": None})
    parts = samples("train", 32, 0), samples("validation", 12, 1)
    training = Training(CONTRACT, *parts, train, np.arange(32), 5, 5)
    folder.mkdir(exist_ok=True)
    supervised = Supervised(CONTRACT, train)
    return module, fit(module, supervised, training, state=folder / "state.safetensors", task="t", progress=Silent())


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Pretrained()


@pytest.fixture
def always(monkeypatch):
    """Whatever else the machine does: what is kept is not what is faster today."""
    monkeypatch.setattr(frozen_parts, "remembered", lambda path, decide: True)


def test_frozen_parts_run_once_for_each_view_and_the_losses_are_those_of_the_plain_way(
    tmp_path, network, always, monkeypatch
):
    with_files, fitted = trained(tmp_path / "a", network)
    seen = sum(network.calls["bert"])
    torch.manual_seed(0)
    plain = Pretrained()
    monkeypatch.setattr(
        "mmedge.training.loop.fit.computed_once", lambda module, folder, inputs: computed_once(module, folder, 0)
    )
    without, other = trained(tmp_path / "b", plain)
    np.testing.assert_allclose([h["loss"] for h in fitted.history], [h["loss"] for h in other.history], rtol=1e-5)
    for name, value in with_files.state_dict().items():
        torch.testing.assert_close(value, without.state_dict()[name], rtol=1e-4, atol=1e-5)
    # 32 texts to train on, 12 to validate, and what stands in for an absent one; and the few that it was tried on.
    assert seen <= 32 + 12 + 1 + 16 < sum(plain.calls["bert"])
    assert sum("is frozen, and was run once" in note for note in fitted.notes) == 2 and not other.notes


def test_nothing_is_left_of_the_files_and_the_network_is_as_it_was(tmp_path, network, always):
    trained(tmp_path / "a", network)
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["state.safetensors"]
    assert not any(isinstance(value, frozen_parts._Part) for part in network.modules() for value in vars(part).values())


def test_a_killed_training_ends_with_the_weights_that_it_would_have_had(tmp_path, network, always, monkeypatch):
    whole, _ = trained(tmp_path / "whole", network)

    class Killed(Exception):
        pass

    def killed(run, path):
        stored(run, path)
        if len(run.history) == 2:
            shutil.copytree(path.parent, tmp_path / "left", dirs_exist_ok=True)
            raise Killed

    from mmedge.training.loop.state import State

    stored = State.store
    torch.manual_seed(0)
    monkeypatch.setattr(State, "store", killed)
    with pytest.raises(Killed):
        trained(tmp_path / "killed", Pretrained())
    monkeypatch.setattr(State, "store", stored)
    torch.manual_seed(0)
    again = Pretrained()
    resumed, _ = trained(tmp_path / "left", again)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert sum(again.calls["bert"]) <= 16  # what it was tried on: all else was in the files


def test_a_part_that_drops_or_counts_as_in_training_is_left_alone_and_told(tmp_path, always):
    torch.manual_seed(0)
    network = Pretrained(evaluated=False)
    _, fitted = trained(tmp_path / "a", network, epochs=2)
    assert frozen_in(network.train()) == ({}, ["bert", "maps"])
    assert [note.split()[0] for note in fitted.notes] == ["inner.bert", "inner.maps"]
    assert all("keep it in eval()" in note for note in fitted.notes)


@pytest.mark.long
def test_a_part_whose_outputs_hang_on_the_others_of_the_batch_is_run_at_every_step(tmp_path, always):
    class Mixing(Maps):
        def features(self, x):
            return super().features(x - x.mean(0))

    torch.manual_seed(0)
    network = Pretrained()
    network.maps = Mixing().requires_grad_(False)
    _, fitted = trained(tmp_path / "a", network, epochs=40)
    # Nor what it gives to a part inside it, which is new at every step and is soon no longer kept.
    assert [note.split()[0] for note in fitted.notes] == ["inner.bert.forward"]


@pytest.mark.long
def test_what_is_trained_is_never_kept(tmp_path, always):
    torch.manual_seed(0)
    network = Pretrained(frozen=False)
    assert frozen_in(network.train()) == ({}, [])
    _, fitted = trained(tmp_path / "a", network, epochs=2)
    assert not fitted.notes


def test_what_lies_behind_what_is_trained_is_never_kept(tmp_path, network, always):
    """In validation nothing asks for gradients: each epoch's inputs, none of which comes again, went into files."""
    network.bert.embeddings.requires_grad_(True)
    _, fitted = trained(tmp_path / "a", network, epochs=2)
    assert len(fitted.notes) == 1 and "maps" in fitted.notes[0]


def test_what_is_faster_is_decided_once_and_kept_for_the_training_after_a_kill(tmp_path, network):
    with computed_once(network, tmp_path / "files", 12):
        network(samples_tensor(12), torch.zeros(12, 3, 16))
        decisions = [json.loads(file.read_text()) for file in (tmp_path / "files").glob("*.json")]
    assert decisions and all(isinstance(decision, bool) for decision in decisions)


def samples_tensor(count):
    return torch.arange(count * 6).reshape(count, 6) % 29 + 1
