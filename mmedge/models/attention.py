"""Attention whose heads can be removed one by one, in place of ``nn.MultiheadAttention``, whose width and heads are one."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional


class SplitAttention(nn.Module):
    """``nn.MultiheadAttention`` with its three projections apart. Same call, same values; never its attention weights.

    Query and key [batch, length, width] where ``batch_first`` (else length first). The number of heads is what is left
    of the projections' width over ``head_dim``, so that removing the channels of a head removes the head.
    """

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.head_dim, self.batch_first, self.dropout = original.head_dim, original.batch_first, original.dropout
        width, bias = original.embed_dim, original.in_proj_bias is not None
        for name, inputs in (("q_proj", width), ("k_proj", original.kdim), ("v_proj", original.vdim)):
            setattr(self, name, nn.Linear(inputs or width, width, bias))
        self.out_proj = nn.Linear(width, width, original.out_proj.bias is not None)
        self._take(original)
        # What nn.TransformerEncoder and its layer read to decide for their fused path, which knows no such attention.
        self.in_proj_bias, self.num_heads, self._qkv_same_embed_dim = None, original.num_heads, False

    @torch.no_grad()
    def _take(self, original: nn.MultiheadAttention) -> None:
        weights = (
            original.in_proj_weight.chunk(3)
            if original.in_proj_weight is not None
            else (original.q_proj_weight, original.k_proj_weight, original.v_proj_weight)
        )
        biases = original.in_proj_bias.chunk(3) if original.in_proj_bias is not None else (None,) * 3
        for layer, weight, bias in zip((self.q_proj, self.k_proj, self.v_proj), weights, biases):
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)
        self.out_proj.load_state_dict(original.out_proj.state_dict())

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        parts = (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        q, k, v = (x.unflatten(2, (-1, self.head_dim)).transpose(1, 2) for x in parts)
        mask = _added(attn_mask, key_padding_mask, q)
        joined = functional.scaled_dot_product_attention(
            q, k, v, mask, self.dropout if self.training else 0.0, is_causal and mask is None
        )
        out = self.out_proj(joined.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None


def _added(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
    """One float mask [batch or 1, heads or 1, queries, keys], to be added; true in a boolean mask means "not to be seen"."""
    masks = []
    if attn_mask is not None:
        grouped = attn_mask.unflatten(0, (q.shape[0], -1)) if attn_mask.dim() == 3 else attn_mask[None, None]
        masks.append(grouped)
    if key_padding_mask is not None:
        masks.append(key_padding_mask[:, None, None, :])
    floats = [
        torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else mask
        for mask in masks
    ]
    return sum(floats[1:], floats[0]) if floats else None


def split_attention(module: nn.Module, names: Collection[str] | None = None) -> list[str]:
    """Replace every ``nn.MultiheadAttention`` inside ``module`` (or those of these names) in place; their names."""
    found = [
        name
        for name, layer in module.named_modules()
        if type(layer) is nn.MultiheadAttention
        and name
        and layer.bias_k is None
        and not layer.add_zero_attn
        and (names is None or name in names)
    ]
    for name in found:
        parent, _, own = name.rpartition(".")
        original = module.get_submodule(name)
        assert isinstance(original, nn.MultiheadAttention)
        setattr(module.get_submodule(parent), own, SplitAttention(original).train(original.training))
    for layer in module.modules():
        if found and isinstance(layer, nn.TransformerEncoder):
            layer.enable_nested_tensor = layer.use_nested_tensor = (
                False  # decided when it was built, for its fused path
            )
    return found
