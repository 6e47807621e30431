"""Attention maps: those of the layer's own weights, whatever way the layer would take without them."""

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.graph.trace import generated
from mmedge.measure.attending import attention_maps, map_picture
from mmedge.models import load
from mmedge.models.attention import split_attention
from mmedge.recipe import Model
from tests.models.networks import BROUGHT


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x, present):
        return {"logits": self.encoder(x).mean(dim=1)}


def test_the_maps_are_the_layers_own_and_the_network_is_left_as_it_was():
    torch.manual_seed(0)
    net, x = Net().eval(), np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    present = np.ones((3, 1), bool)
    before = net(torch.from_numpy(x), None)["logits"]
    found = attention_maps(net, {"x": x}, present)
    assert list(found) == ["encoder.layers.0.self_attn", "encoder.layers.1.self_attn"]
    first = net.encoder.layers[0].self_attn
    with torch.no_grad():
        _, weights = first(*(torch.from_numpy(x),) * 3, need_weights=True)
    assert found["encoder.layers.0.self_attn"] == pytest.approx(weights.numpy(), abs=1e-6)
    for maps in found.values():
        assert maps.shape == (3, 5, 5) and maps.sum(axis=2) == pytest.approx(np.ones((3, 5)), abs=1e-5)
    assert torch.equal(net(torch.from_numpy(x), None)["logits"], before) and not first._forward_hooks
    assert torch.backends.mha.get_fastpath_enabled()
    assert map_picture(found["encoder.layers.0.self_attn"][0]).startswith("data:image/png;base64,")


class Written(nn.Module):
    """Attention in a user's own words: by softmax, and by torch's function with fewer keys than queries have heads."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x, present):
        scores = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), dim=-1)
        q, k = (part.unflatten(2, (-1, 2)).transpose(1, 2) for part in (self.q(x), self.k(x)[..., :4]))
        seen = nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
        return {"logits": torch.softmax((scores @ x).mean(dim=1) + seen.mean(dim=(1, 2)).repeat(1, 4), dim=-1)}


def test_attention_that_a_network_writes_out_is_seen_and_a_softmax_over_classes_is_none():
    torch.manual_seed(0)
    net, x = Written().eval(), np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    found = attention_maps(net, {"x": x}, np.ones((3, 1), bool))
    assert list(found) == ["the network", "the network (2)"]
    with torch.no_grad():
        q, k = net.q(torch.from_numpy(x)), net.k(torch.from_numpy(x))
        assert found["the network"] == pytest.approx(torch.softmax(q @ k.transpose(1, 2), -1).numpy(), abs=1e-6)
        wanted = torch.zeros(3, 5, 5)
        for head in range(4):  # two heads of queries share one of keys; values that are unit vectors show the weights
            of_q, of_k = (part[None] for part in (q[..., 2 * head : 2 * head + 2], k[..., head // 2 * 2 :][..., :2]))
            wanted += (
                nn.functional.scaled_dot_product_attention(of_q, of_k, torch.eye(5).expand(1, 3, 5, 5), is_causal=True)[
                    0
                ]
                / 4
            )
    assert found["the network (2)"] == pytest.approx(wanted.numpy(), abs=1e-6)


def test_attention_that_was_taken_apart_for_pruning_is_the_same():
    torch.manual_seed(0)
    net, x = Net().eval(), np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    before = attention_maps(net, {"x": x}, np.ones((3, 1), bool))
    split_attention(net)
    after = attention_maps(net, {"x": x}, np.ones((3, 1), bool))
    assert list(after) == list(before) and all(after[k] == pytest.approx(before[k], abs=1e-6) for k in before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CLIP", "Bert", "GPT2", "ViT", "Whisper encoder", "wav2vec2"])
def test_networks_of_transformers_show_their_attention(name):
    (net,) = (net for net in BROUGHT if net.name == name)
    module = load.build(Model(factory="x:y"), net.contract, factory=net.make, fresh=True).eval()
    inputs = {name: x.numpy() for name, x in generated(net.contract, 3).items()}
    present = inputs.pop("present")
    maps = attention_maps(module, inputs, present)
    assert len(maps) == 2 * len(net.modalities)
    for found in maps.values():
        assert found.sum(axis=2) == pytest.approx(np.ones(found.shape[:2]), abs=1e-5)


def test_a_network_without_attention_has_none():
    class Plain(nn.Module):
        def forward(self, x, present):
            return {"logits": x}

    assert attention_maps(Plain(), {"x": np.zeros((1, 2), np.float32)}, np.ones((1, 1), bool)) == {}
