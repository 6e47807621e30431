"""Fusion at the decision level: each modality comes to its own, and the weighted mean of them is the network's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Decision(nn.Module):
    """The mean of each modality's own ``hidden`` features by weights that add up to 1, learned or left equal.

    A head is linear over it, so that its outputs are the weighted mean of what it would give of each modality alone: late
    fusion (Snoek, Worring & Smeulders 2005, "Early versus late fusion"). ``forward``: as in ``FUSIONS``.
    """

    def __init__(self, count: int, embedding: int, hidden: int, *, learned: bool) -> None:
        super().__init__()
        self.own = nn.ModuleList(nn.Sequential(nn.Linear(embedding, hidden), nn.ReLU()) for _ in range(count))
        self.shares = nn.Parameter(torch.zeros(count)) if learned else None

    def decisions(self, *features: Tensor) -> list[Tensor]:
        """Each modality's own, [batch, hidden]."""
        return [layer(x) for layer, x in zip(self.own, features)]

    def forward(self, *features: Tensor) -> Tensor:
        own = self.decisions(*features)
        if self.shares is None:
            return sum(own[1:], own[0]) / len(own)
        weighed = [x * share for x, share in zip(own, self.shares.softmax(dim=0).unbind())]
        return sum(weighed[1:], weighed[0])
