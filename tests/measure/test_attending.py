"""Attention maps: those of the layer's own weights, whatever way the layer would take without them."""

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.measure.attending import attention_maps, map_picture


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


def test_a_network_without_attention_has_none():
    class Plain(nn.Module):
        def forward(self, x, present):
            return {"logits": x}

    assert attention_maps(Plain(), {"x": np.zeros((1, 2), np.float32)}, np.ones((1, 1), bool)) == {}
