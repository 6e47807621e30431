"""Fusion by gates: how much each modality counts is decided sample by sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gated(nn.Module):
    """The sum of each modality's own ``hidden`` features, each by a gate that sees all modalities.

    Arevalo et al. 2017, "Gated multimodal units for information fusion". ``forward``: as in ``FUSIONS``.
    """

    def __init__(self, count: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.own = nn.ModuleList(nn.Sequential(nn.Linear(embedding, hidden), nn.Tanh()) for _ in range(count))
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(count * embedding, hidden), nn.Sigmoid()) for _ in range(count)
        )

    def forward(self, *features: Tensor) -> Tensor:
        joint = torch.cat(features, dim=1)
        weighed = [own(x) * gate(joint) for x, own, gate in zip(features, self.own, self.gates)]
        return sum(weighed[1:], weighed[0])
