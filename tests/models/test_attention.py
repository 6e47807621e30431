"""Attention taken apart: the same values as nn.MultiheadAttention, and heads that can go."""

import copy

import pytest
import torch
from torch import nn

from mmedge.models.attention import SplitAttention, split_attention


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"batch_first": True}, {"kdim": 12, "vdim": 20}])
@pytest.mark.parametrize("masked", ["nothing", "padding", "causal", "both", "each head"])
def test_an_attention_that_is_taken_apart_answers_as_before(options, masked):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(16, 4, **options).eval()
    for parameter in theirs.parameters():  # biases start at zero, and would hide a mistake
        nn.init.normal_(parameter, std=0.3)
    q, k, v = (
        torch.randn(3, 5, 16),
        torch.randn(3, 6, options.get("kdim", 16)),
        torch.randn(3, 6, options.get("vdim", 16)),
    )
    if not options.get("batch_first"):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    masks = {}
    if masked in ("padding", "both"):
        masks["key_padding_mask"] = torch.tensor([[False] * 4 + [True] * 2] * 3)
    if masked in ("causal", "both"):
        masks["attn_mask"] = torch.ones(5, 6, dtype=torch.bool).triu(2)
    if masked == "each head":
        masks["attn_mask"] = torch.randn(12, 5, 6)
    expected, _ = theirs(q, k, v, need_weights=False, **masks)
    actual, weights = SplitAttention(theirs)(q, k, v, **masks)
    assert weights is None and torch.allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_keeps_its_values_when_its_attention_is_taken_apart(training):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    module = nn.TransformerEncoder(layer, 2).train(training)
    x, padding = torch.randn(3, 5, 16), torch.tensor([[False] * 4 + [True]] * 3)
    apart = copy.deepcopy(module)
    assert split_attention(apart) == ["layers.0.self_attn", "layers.1.self_attn"]
    seen = ~padding[..., None]
    assert torch.allclose(
        module(x, src_key_padding_mask=padding) * seen, apart(x, src_key_padding_mask=padding) * seen, atol=1e-5
    )


def test_what_has_no_equal_stays_whole():
    module = nn.ModuleDict(
        {"odd": nn.MultiheadAttention(8, 2, add_zero_attn=True), "plain": nn.MultiheadAttention(8, 2)}
    )
    assert split_attention(module) == ["plain"]
    assert isinstance(module["odd"], nn.MultiheadAttention) and isinstance(module["plain"], SplitAttention)
