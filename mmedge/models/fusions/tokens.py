"""Fusion of tokens: encoders give a vector a token instead of one, and attention joins them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmedge.models.encoders.transformer import SPREAD, Block

_DEPTH, _BOTTLENECK, _HEADS = 2, 4, 4


class _OfTokens(nn.Module):
    """``forward``: of each modality float32 [batch, length, embedding] and bool [batch, length], true where a token is hidden
    -> [batch, hidden]. At least one token of each is not hidden. The embedding is a multiple of the heads, or there is one."""

    # What the network asks: whether it joins tokens.
    of_tokens = True

    def __init__(self, count: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.kinds = nn.ParameterList(nn.Parameter(torch.randn(embedding) * SPREAD) for _ in range(count))
        self.joint = nn.Sequential(nn.LayerNorm(embedding), nn.Linear(embedding, hidden), nn.ReLU())


def _block(embedding: int) -> Block:
    return Block(embedding, _HEADS if embedding % _HEADS == 0 else 1, 0.0)


class Joint(_OfTokens):
    """One transformer over all tokens of all modalities, and their mean: Kim, Son & Kim 2021, "ViLT"."""

    def __init__(self, count: int, embedding: int, hidden: int) -> None:
        super().__init__(count, embedding, hidden)
        self.blocks = nn.ModuleList(_block(embedding) for _ in range(_DEPTH))

    def forward(self, tokens: Sequence[Tensor], hidden: Sequence[Tensor]) -> Tensor:
        x = torch.cat([each + kind for each, kind in zip(tokens, self.kinds)], dim=1)
        mask = torch.cat(list(hidden), dim=1)
        for block in self.blocks:
            x = block(x, mask)
        seen = (~mask).to(x.dtype).unsqueeze(2)
        return self.joint((x * seen).sum(dim=1) / seen.sum(dim=1))


class Bottleneck(_OfTokens):
    """A transformer a modality; all that passes between them are a few learned tokens, which each sees beside its own.

    Nagrani et al. 2021, "Attention bottlenecks for multimodal fusion": after each layer these are the mean of what the
    modalities made of them, and at the end their mean goes on.
    """

    def __init__(self, count: int, embedding: int, hidden: int) -> None:
        super().__init__(count, embedding, hidden)
        self.bottleneck = nn.Parameter(torch.randn(1, _BOTTLENECK, embedding) * SPREAD)
        self.layers = nn.ModuleList(nn.ModuleList(_block(embedding) for _ in range(count)) for _ in range(_DEPTH))

    def forward(self, tokens: Sequence[Tensor], hidden: Sequence[Tensor]) -> Tensor:
        own = [each + kind for each, kind in zip(tokens, self.kinds)]
        shared = self.bottleneck.expand(own[0].shape[0], -1, -1)
        masks = [torch.cat([torch.zeros_like(mask[:, :1]).expand(-1, _BOTTLENECK), mask], dim=1) for mask in hidden]
        for blocks in self.layers:
            found = [block(torch.cat([shared, x], dim=1), mask) for block, x, mask in zip(blocks, own, masks)]  # type: ignore[arg-type]
            own = [x[:, _BOTTLENECK:] for x in found]
            shared = torch.stack([x[:, :_BOTTLENECK] for x in found]).mean(dim=0)
        return self.joint(shared.mean(dim=1))
