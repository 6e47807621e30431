"""Layers of any network as hints: maps of any size, tokens, batches that come second, and what cannot be compared."""

import pytest
import torch
from torch import nn

from mmedge.errors import UsageError
from mmedge.recipe import Hint
from mmedge.training.losses import hints as distillation
from mmedge.training.teaching.layers import MOST_FEATURES, HintedLayer, check_pair, pooled


def taken(module, layer, *inputs, kind="features", first=None):
    """What the hint is of, after a pass of one sample (which settles where the batch is) and the one that counts."""
    hint = HintedLayer(module, layer, kind, "student")
    with torch.no_grad():
        module.eval()(*(first or [x[:1] for x in inputs]))
        hint.take(1)
        module(*inputs)
        return hint.take(len(inputs[0]))


class Transformer(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.batch_first = batch_first
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens):
        return self.encoder(tokens) if self.batch_first else self.encoder(tokens.transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize("kind", ["features", "attention"])
@pytest.mark.parametrize("layer", ["encoder", "encoder.layers.0.self_attn", "encoder.layers.1.linear1"])
def test_a_transformer_that_has_its_batch_second_gives_the_same_hint_even_where_it_is_as_long_as_the_tokens(
    layer, kind
):
    first, second = Transformer(True), Transformer(False)
    second.load_state_dict(first.state_dict())
    tokens = torch.randn(12, 12, 8)
    hint = taken(first, layer, tokens, kind=kind)
    assert len(hint) == 12
    torch.testing.assert_close(taken(second, layer, tokens, kind=kind), hint)


def test_attention_of_tokens_is_over_the_tokens_and_that_of_convolutions_over_their_places():
    tokens, sound = torch.zeros(1, 16, 8), torch.zeros(1, 8, 16)
    tokens[:, :4], sound[:, :, :4] = 1.0, 1.0  # the first quarter is active
    conv = nn.Sequential(nn.Conv1d(8, 8, 1, bias=False))
    linear = nn.Sequential(nn.Linear(8, 8, bias=False))
    with torch.no_grad():
        conv[0].weight.copy_(torch.eye(8)[..., None])
        linear[0].weight.copy_(torch.eye(8))
    maps = [taken(net, "0", x, kind="attention")[0] for net, x in ((linear, tokens), (conv, sound))]
    for found in maps:
        assert found.reshape(4, 4)[0].min() > 0.4 and found.reshape(4, 4)[1:].max() < 1e-6


@pytest.mark.parametrize(
    "behind", [nn.GELU(), nn.Dropout(0.5), nn.Sequential(nn.ReLU(), nn.Identity())], ids=["gelu", "dropout", "several"]
)
def test_a_layer_without_weights_has_its_channels_where_the_layer_before_it_put_them(behind):
    tokens, sound = torch.zeros(1, 16, 8), torch.zeros(1, 8, 16)
    tokens[:, :4], sound[:, :, :4] = 1.0, 1.0  # the first quarter is active
    linear = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Sequential(nn.Identity()), behind)
    conv = nn.Sequential(nn.Conv1d(8, 8, 1, bias=False), behind, nn.AvgPool1d(1))
    with torch.no_grad():
        conv[0].weight.copy_(torch.eye(8)[..., None])
        linear[0].weight.copy_(torch.eye(8))
    for net, x, layer in ((linear, tokens, "2"), (linear, tokens, "1.0"), (conv, sound, "1"), (conv, sound, "2")):
        found = taken(net, layer, x, kind="attention")[0]
        assert found.reshape(4, 4)[0].min() > 0.4 and found.reshape(4, 4)[1:].max() < 1e-6


class Patches(nn.Module):
    """Image patches as tokens: a convolution whose output [batch, tokens, width] has its channels last."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 4, 4)

    def forward(self, x):
        return self.conv(x).flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1)), (3, 112, 112)),
        (nn.Sequential(nn.Conv3d(1, 16, 3, 2, 1)), (1, 12, 40, 40)),
        (nn.Sequential(nn.Conv1d(4, 32, 5)), (4, 400)),
        (nn.Sequential(Patches()), (3, 64, 64)),
        (nn.Sequential(nn.GRU(10, 16, batch_first=True, bidirectional=True)), (300, 10)),
    ],
)
def test_a_large_map_is_pooled_over_its_places_to_a_width_that_a_projection_can_have(net, shape):
    x = torch.randn(2, *shape)
    hint = taken(net, "0", x)
    assert MOST_FEATURES / 2 < hint.shape[1] <= MOST_FEATURES
    with torch.no_grad():
        out = net(x)
    out = out[0] if isinstance(out, tuple) else out
    if isinstance(net[0], (Patches, nn.GRU)):
        out = out.transpose(1, 2)
    channels = out.shape[1]  # its means over channels are those of the map, where the grid is even
    assert hint.reshape(2, channels, -1).shape[1] == channels
    torch.testing.assert_close(hint, pooled(out).flatten(1))


def test_pooling_keeps_the_mean_of_every_channel_and_leaves_small_maps_alone():
    x = torch.randn(2, 64, 16, 32)
    small = pooled(x)
    assert small.shape == (2, 64, 2, 4)
    torch.testing.assert_close(small.mean((2, 3)), x.mean((2, 3)))
    assert pooled(torch.randn(2, 2048, 7, 7)).shape == (2, 2048, 1, 1)
    assert pooled(torch.randn(2, 8, 2, 300)).shape == (2, 8, 2, 32)
    assert pooled(x[:, :, :2, :4]).equal(x[:, :, :2, :4])


def test_layers_that_return_a_dict_or_a_tuple_are_taken_by_their_first_tensor():
    class Answers(nn.Module):
        def forward(self, x):
            return {"nothing": None, "last_hidden_state": x * 2, "pooler": x[:, 0]}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = Answers()

        def forward(self, x):
            return self.inside(x)["pooler"]

    x = torch.randn(3, 5)
    torch.testing.assert_close(taken(Net(), "inside", x), x * 2)


@pytest.mark.parametrize(
    ("layer", "told"),
    [("skipped", "did not run"), ("words", "returns no tensor but str"), ("counts", r"gives int64 \[1, 4\]")],
)
def test_a_layer_that_gives_nothing_to_compare_is_told(layer, told):
    class Says(nn.Module):
        def forward(self, x):
            return "words"

    class Counts(nn.Module):
        def forward(self, x):
            return (x > 0).long()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.skipped, self.words, self.counts = nn.Linear(4, 4), Says(), Counts()

        def forward(self, x):
            self.words(x)
            return self.counts(x).float()

    with pytest.raises(UsageError, match=f"the student's layer '{layer}' {told}"):
        taken(Net(), layer, torch.randn(1, 4))


def test_two_layers_that_cannot_be_compared_are_told_before_they_are():
    with pytest.raises(UsageError, match="of 16 and 48 numbers"):
        check_pair(Hint(kind="attention"), 16, 48)
    with pytest.raises(UsageError, match=r"2\.5 billion weights"):
        check_pair(Hint(kind="features"), 25_088, 100_352)
    for kind in ("relations", "contrastive"):
        check_pair(Hint(kind=kind), 25_088, 100_352)
    check_pair(Hint(kind="attention"), 16, 16)
    assert distillation.attention_map(torch.randn(2, 3, 6, 8, 8)).shape == (2, 16)
