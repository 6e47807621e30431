"""The built-in fusion network: an encoder a modality, a learned vector where one is absent, and a joint head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FusionNet(nn.Module):
    """Late fusion with a missing-modality contract.

    ``forward(**{modality: tensor}, present: bool [batch, modalities]) -> {output: [batch, outputs]}``. The columns of
    ``present`` follow the order of ``encoders``. The tensor of an absent modality is read but has no influence.
    The learned stand-in for an absent modality follows SMIL's idea of a modality prior (Ma et al. 2021) in its plainest form.
    """

    def __init__(
        self, encoders: Mapping[str, nn.Module], embedding: int, hidden: int, outputs: int, output: str, dropout: float
    ) -> None:
        super().__init__()
        self.modalities = tuple(encoders)
        self.output = output
        self.encoders = nn.ModuleDict(encoders)
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(embedding)) for name in encoders})
        self.fusion = nn.Sequential(nn.Linear(embedding * len(self.modalities), hidden), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, outputs))

    def forward(self, present: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        embeddings = [
            torch.where(present[:, index : index + 1], self.encoders[name](inputs[name]), self.absent[name])
            for index, name in enumerate(self.modalities)
        ]
        return {self.output: self.head(self.fusion(torch.cat(embeddings, dim=1)))}
