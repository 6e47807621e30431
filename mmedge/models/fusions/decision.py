"""Fusion at the decision level: each modality comes to its own, and the weighted mean of them is the network's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Decision(nn.Module):
    """The mean of each modality's own ``hidden`` features by weights that add up to 1: learned, in the ratio ``given``, or equal.

    A head is linear over it, so that its outputs are the weighted mean of what it would give of each modality alone: late
    fusion (Snoek, Worring & Smeulders 2005, "Early versus late fusion"). ``forward``: as in ``FUSIONS``.
    """

    by_weights = True
    weights: Tensor | None

    def __init__(
        self, count: int, embedding: int, hidden: int, given: Sequence[float] = (), *, learned: bool = False
    ) -> None:
        super().__init__()
        self.own = nn.ModuleList(nn.Sequential(nn.Linear(embedding, hidden), nn.ReLU()) for _ in range(count))
        self.shares = nn.Parameter(torch.zeros(count)) if learned else None
        self.register_buffer("weights", torch.tensor(given) / sum(given) if given else None)

    def decisions(self, *features: Tensor) -> list[Tensor]:
        """Each modality's own, [batch, hidden]."""
        return [layer(x) for layer, x in zip(self.own, features)]

    def forward(self, *features: Tensor) -> Tensor:
        own = self.decisions(*features)
        weights = self.weights if self.shares is None else self.shares.softmax(dim=0)
        if weights is None:
            return sum(own[1:], own[0]) / len(own)
        weighed = [x * weight for x, weight in zip(own, weights.unbind())]
        return sum(weighed[1:], weighed[0])
