"""Fusion by a linear layer over the features of all."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def build(count: int, embedding: int, hidden: int) -> nn.Module:
    """The fusion of ``count`` modalities."""
    return Concat(nn.Linear(count * embedding, hidden), nn.ReLU())


class Concat(nn.Sequential):
    """``forward``: float32 [batch, embedding] of each modality -> [batch, hidden]. A list of layers, as 0.1 named them."""

    def forward(self, *features: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat(features, dim=1))
