"""Fusion by attention among the modalities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmedge.models.encoders.transformer import Block

_BOTTLENECK, _HEADS = 2, 4


class Attended(nn.Module):
    """A transformer block in which each modality is a token beside two learned ones, whose mean goes on.

    Bottleneck tokens: Nagrani et al. 2021, "Attention bottlenecks for multimodal fusion", here of one level.
    ``forward``: as in ``FUSIONS``; the embedding is a multiple of the heads, or there is one.
    """

    def __init__(self, count: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.bottleneck = nn.Parameter(torch.randn(1, _BOTTLENECK, embedding) * 0.02)
        self.kinds = nn.Parameter(torch.randn(1, count, embedding) * 0.02)
        self.block = Block(embedding, _HEADS if embedding % _HEADS == 0 else 1, 0.0)
        self.joint = nn.Sequential(nn.LayerNorm(embedding), nn.Linear(embedding, hidden), nn.ReLU())

    def forward(self, *features: Tensor) -> Tensor:
        tokens = torch.stack(features, dim=1) + self.kinds
        learned = self.bottleneck.expand(tokens.shape[0], -1, -1)
        return self.joint(self.block(torch.cat([learned, tokens], dim=1))[:, :_BOTTLENECK].mean(dim=1))
