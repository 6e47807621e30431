"""Fusion by a weighted sum: the cheapest, and in INT8 one addition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Sum(nn.Module):
    """The features' sum, each by a weight that is learned or ``given``, and a linear layer. ``forward``: as in ``FUSIONS``."""

    by_weights = True

    def __init__(self, count: int, embedding: int, hidden: int, given: Sequence[float] = ()) -> None:
        super().__init__()
        begun = given or [1 / count] * count
        self.weights = nn.ParameterList(
            nn.Parameter(torch.tensor([weight]), requires_grad=not given) for weight in begun
        )
        self.joint = nn.Sequential(nn.Linear(embedding, hidden), nn.ReLU())

    def forward(self, *features: Tensor) -> Tensor:
        weighed = [x * weight for x, weight in zip(features, self.weights)]
        return self.joint(sum(weighed[1:], weighed[0]))
