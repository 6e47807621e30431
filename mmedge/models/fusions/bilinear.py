"""Fusion by products: what one modality says counts by what the others say."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_RANK = 4


class LowRank(nn.Module):
    """The sum over four products of a linear form of each modality, normalised.

    Liu et al. 2018, "Efficient low-rank multimodal fusion with modality-specific factors". ``forward``: as in ``FUSIONS``.
    """

    def __init__(self, count: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.forms = nn.ModuleList(
            nn.ModuleList(nn.Linear(embedding, hidden) for _ in range(count)) for _ in range(_RANK)
        )
        for form in self.forms:
            for linear in form:
                nn.init.ones_(linear.bias)  # a factor says "as it is" until it has learned something
        self.after = nn.Sequential(nn.LayerNorm(hidden), nn.ReLU())

    def forward(self, *features: Tensor) -> Tensor:
        products = []
        for form in self.forms:
            product = form[0](features[0])
            for linear, x in zip(list(form)[1:], features[1:]):
                product = product * linear(x)
            products.append(product)
        return self.after(torch.stack(products).sum(dim=0))
