"""Networks as users write them: what can be narrowed is, what cannot is told, and the cut model is rebuilt bit for bit."""

import json
import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmedge.contract import Contract
from mmedge.errors import MmedgeError
from mmedge.graph.trace import example, generated
from mmedge.measure.cost import params
from mmedge.models import load
from mmedge.models.skipped import skip, stacks
from mmedge.recipe import Model, Prune
from mmedge.spec import ArraySpec
from mmedge.stages.prune.groups import cut, groups_of, working_together
from mmedge.stages.prune.search import kept_units
from tests.models.networks import BROUGHT

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


class Attention(nn.Module):
    """Four ways in which people write it. ``mix``: one head reads another's weights, so that none can go."""

    def __init__(self, form, width=16, heads=4):
        super().__init__()
        self.form, self.heads, self.size = form, heads, width // heads
        if form == "joined":
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.mix = nn.Linear(heads, heads) if form == "mixed" else nn.Identity()
        self.o = nn.Linear(width, width)

    def forward(self, x):
        b, n, _ = x.shape
        if self.form == "joined":
            q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        else:
            heads = -1 if self.form == "shapes" else self.heads
            q, k, v = (part(x).view(b, n, heads, self.size).transpose(1, 2) for part in (self.q, self.k, self.v))
        if self.form == "joined":
            found = functional.scaled_dot_product_attention(q, k, v)
        else:
            weights = torch.softmax(q @ k.transpose(-1, -2) / self.size**0.5, -1)
            found = self.mix(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v
        return self.o(found.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """A class token reads the picture's rows; what it says is joined with the sound's features."""

    def __init__(self, form):
        super().__init__()
        self.rows = nn.Linear(8, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.attention, self.norm = Attention(form), nn.LayerNorm(16)
        self.listen = nn.Linear(96, 16)
        self.out = nn.Linear(32, 3)

    def forward(self, image, sound):
        x = torch.cat([self.token.expand(len(image), -1, -1), self.rows(image[:, 0])], 1)
        x = self.norm(x + self.attention(x))
        return self.out(torch.cat([x[:, 0], torch.relu(self.listen(sound.flatten(1)))], 1))


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


@pytest.mark.parametrize("form", ["shapes", "number", "joined"])
def test_a_transformer_of_ones_own_loses_whole_heads_and_its_width(form, tmp_path):
    module = load.build(Model(factory="t:f"), CONTRACT, factory=lambda: Transformer(form))
    heads = {group.root.rpartition(".")[2]: group for group in groups_of(module, CONTRACT, Prune())[0]}
    root = heads["qkv" if form == "joined" else "v"]
    assert len(root.units) == 4
    assert sorted(tuple(channel % 16 for channel in unit) for unit in root.units) == sorted(
        tuple(range(at, at + 4)) * (3 if form == "joined" else 1) for at in (0, 4, 8, 12)
    )
    assert bool(root.counts) == (form != "shapes")
    found, left = narrowed(lambda: Transformer(form), tmp_path)
    assert not left and {"listen", root.root.removeprefix("inner.")} < found and len(found) == 3


def test_heads_that_read_each_other_are_left(tmp_path):
    _, left = narrowed(lambda: Transformer("mixed"), tmp_path)
    assert any("attention of the model's own" in why for why in left.values())


class Shallow(nn.Module):
    """One layer from the inputs to the logits: no channel can go."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(64 + 96, 3)

    def forward(self, image, sound):
        return self.out(torch.cat([image.flatten(1), sound.flatten(1)], 1))


def test_a_network_without_a_channel_that_could_go_is_an_error_that_says_what_to_do():
    module = load.build(Model(factory="theirs:factory"), CONTRACT, factory=Shallow)
    with pytest.raises(MmedgeError, match="torch-pruning cannot prune") as raised:
        groups_of(module, CONTRACT, Prune())
    assert "prune.ignore" in str(raised.value) and len(str(raised.value).splitlines()) == 3


class Normed(nn.Module):
    """A layer whose weights are computed of other parameters in each call, and another beside it."""

    def __init__(self, norm):
        super().__init__()
        self.see, self.wide, self.out = nn.Linear(64, 32), norm(nn.Linear(96, 32)), nn.Linear(64, 3)

    def forward(self, image, sound):
        wide, see = self.wide(sound.flatten(1)), self.see(image.flatten(1))
        return self.out(torch.relu(torch.cat([wide, see], 1)))


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_layers_whose_weights_are_computed_are_left_with_the_reason_and_others_are_narrowed(norm, tmp_path):
    made = getattr(nn.utils.parametrizations, norm)
    found, left = narrowed(lambda: Normed(made), tmp_path)
    assert found == {"see"}
    assert left == {"inner.wide": "or what reads it computes its weights (weight_norm, spectral_norm)"}


class Viewed(nn.Module):
    """Reads the width of a map off a layer that is narrowed; beside it two encoders of equal width are joined."""

    def __init__(self):
        super().__init__()
        self.wide, self.up = nn.Linear(96, 8 * 4), nn.ConvTranspose2d(8, 8, 2, 2)
        self.see, self.listen = nn.Conv2d(1, 8, 3, 2, 1), nn.Linear(6, 8)
        self.pool, self.join, self.out = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 12), nn.Linear(20, 3)

    def forward(self, image, sound):
        up = self.up(torch.relu(self.wide(sound.flatten(1))).view(-1, self.up.in_channels, 2, 2)).mean((2, 3))
        seen = self.pool(torch.relu(self.see(image))).flatten(1)
        joined = torch.relu(self.join(torch.cat([seen, torch.relu(self.listen(sound.mean(1)))], 1)))
        return self.out(torch.cat([joined, up], 1))


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.6])
def test_a_cut_that_breaks_the_forward_leaves_that_group_alone_and_takes_the_others(ratio):
    module = load.build(Model(factory="own:net"), CONTRACT, factory=Viewed).eval()
    groups, _ = groups_of(module, CONTRACT, Prune(round_to=1))
    keep = kept_units({"": groups}, {"": ratio}, 1)
    working, left = working_together(module, CONTRACT, groups, keep)
    assert {"inner.see", "inner.listen", "inner.join"} <= {group.root for group in working}
    assert all("cannot be narrowed" in why for why in left.values())
    cut(module, CONTRACT, working, keep)
    with torch.no_grad():
        assert module(**example(CONTRACT))["logits"].shape == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Bert", "ViT", "CLIP"])
def test_a_network_of_transformers_loses_whole_heads_and_feed_forward_widths_and_is_rebuilt(name, tmp_path):
    network = next(each for each in BROUGHT if each.name == name)
    torch.manual_seed(0)
    section = Model(factory="theirs:factory")
    module = load.build(section, network.contract, factory=network.make).eval()
    groups, _ = groups_of(module, network.contract, Prune())
    heads = [group for group in groups if re.search(r"value$|v_proj$", group.root)]
    wide = [group for group in groups if re.search(r"intermediate|fc1$", group.root)]
    layers = 4 if name == "CLIP" else 2  # it has two towers
    assert len(heads) == len(wide) == layers
    assert all((len(group.units), len(group.units[0])) == (2, 8) for group in heads)
    before, history = params(module), []
    history += cut(module, network.contract, groups, {group.root: -(-len(group.units) // 2) for group in groups})
    load.save(module, tmp_path, history)
    again = load.build(section, network.contract, factory=network.make, fresh=True)
    load.apply_history(again, json.loads((tmp_path / "pruning.json").read_text()), network.contract)
    load.load_weights(again, tmp_path / "weights.safetensors")
    inputs = generated(network.contract, 3)
    with torch.no_grad():
        assert torch.equal(*(each.eval()(**inputs)["logits"] for each in (module, again)))
    assert params(module) < 0.95 * before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Bert", "ViT", "CLIP"])
def test_the_layers_of_a_network_of_transformers_are_blocks_that_may_go(name):
    network = next(each for each in BROUGHT if each.name == name)
    module = load.build(Model(factory="theirs:factory"), network.contract, factory=network.make).eval()
    found = stacks(module, example(network.contract))
    assert sorted(len(blocks) for blocks in found.values()) == [2] * (2 if name == "CLIP" else 1)
    skip(module, {block: wrapped for blocks in found.values() for block, wrapped in list(blocks.items())[:1]})
    with torch.no_grad():
        assert module(**example(network.contract))["logits"].shape == (2, 3)
