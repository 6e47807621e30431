"""Networks as users write them: what can be narrowed is, what cannot is told, and the cut model is rebuilt bit for bit."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmedge.measure.cost import params
from mmedge.models import load
from mmedge.recipe import Model, Prune
from mmedge.spec import ArraySpec, Contract
from mmedge.stages.prune.groups import cut, groups_of

CONTRACT = Contract(
    task="classification",
    modalities={
        "image": ArraySpec(kind="array", shape=(1, 8, 8)),
        "sound": ArraySpec(kind="array", shape=(16, 6)),
    },
    labels=("a", "b", "c"),
)


class Recurrent(nn.Module):
    """A sound is read by a recurrent layer; its last output, or its last state, meets the picture."""

    def __init__(self, kind, state, **options):
        super().__init__()
        self.before = nn.Conv1d(16, 16, 3, padding=1)
        self.listen = getattr(nn, kind)(16, 12, batch_first=True, **options)
        self.see = nn.Linear(64, 16)
        self.join = nn.Linear(16 + 12 * (2 if options.get("bidirectional") and not state else 1), 16)
        self.out = nn.Linear(16, 3)
        self.state = state

    def forward(self, image, sound):
        heard, state = self.listen(torch.relu(self.before(sound)).transpose(1, 2))
        heard = (state[0] if isinstance(state, tuple) else state)[-1] if self.state else heard[:, -1]
        return self.out(torch.relu(self.join(torch.cat([heard, torch.relu(self.see(image.flatten(1)))], 1))))


class Gated(nn.Module):
    """A gated linear unit halves its channels, which the dependency graph does not follow; the rest it does."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Conv1d(16, 32, 3, padding=1)
        self.listen = nn.Linear(16, 16)
        self.see = nn.Linear(64, 16)
        self.out = nn.Linear(32, 3)

    def forward(self, image, sound):
        heard = torch.relu(self.listen(functional.glu(self.gate(sound), 1).mean(2)))
        return self.out(torch.cat([heard, torch.relu(self.see(image.flatten(1)))], 1))


def narrowed(factory, tmp_path):
    """(the groups, what is left, the module, the same cut to half, the same rebuilt from what was saved)."""
    torch.manual_seed(0)
    section = Model(factory="theirs:factory")
    module = load.build(section, CONTRACT, factory=factory).eval()
    before = params(module)
    groups, left = groups_of(module, CONTRACT, Prune())
    history = cut(module, CONTRACT, groups, {group.root: -(-len(group.units) // 2) for group in groups})
    load.save(module, tmp_path, history)
    again = load.build(section, CONTRACT, factory=factory, fresh=True)
    load.apply_history(again, json.loads((tmp_path / "pruning.json").read_text()), CONTRACT)
    load.load_weights(again, tmp_path / "weights.safetensors")
    inputs = {
        "present": torch.ones(3, 2, dtype=torch.bool),
        "image": torch.randn(3, 1, 8, 8),
        "sound": torch.randn(3, 16, 6),
    }
    with torch.no_grad():
        answers = [each.eval()(**inputs)["logits"] for each in (module, again)]
    assert torch.equal(*answers) and answers[0].shape == (3, 3)
    assert params(module) < before
    return {group.root.removeprefix("inner.") for group in groups}, left


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_a_recurrent_layer_is_pruned_around_and_its_inputs_narrowed(kind, state, tmp_path):
    found, left = narrowed(lambda: Recurrent(kind, state), tmp_path)
    assert found == {"before", "see", "join"} and not left


def test_a_recurrent_layer_of_two_directions_and_layers_too(tmp_path):
    found, _ = narrowed(lambda: Recurrent("GRU", False, num_layers=2, bidirectional=True), tmp_path)
    assert found == {"before", "see", "join"}


def test_a_layer_that_cannot_be_followed_is_told_and_the_others_are_pruned(tmp_path):
    found, left = narrowed(Gated, tmp_path)
    assert found == {"listen", "see"}
    assert set(left) == {"inner.gate"} and left["inner.gate"].startswith("cannot be narrowed")
