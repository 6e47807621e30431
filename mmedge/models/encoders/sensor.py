"""Encoder of series: convolutions along time, and the mean over it."""

from __future__ import annotations

from torch import Tensor, nn

from mmedge.models.encoders.stages import stages
from mmedge.recipe import Encoder, Model
from mmedge.spec import SensorSpec


def build(spec: SensorSpec, encoder: Encoder, model: Model) -> nn.Module:
    """The encoder of a series [channels, length]."""
    return SeriesEncoder(spec.channels, encoder, model)


class SeriesEncoder(nn.Module):
    """Stages of 1-D convolutions over 5 steps, each halving the length, then a linear layer over the mean in time.

    The mean, since a movement is the same wherever its window happens to start.

    ``forward``: float32 [batch, channels, length] -> [batch, embedding].
    """

    def __init__(self, channels: int, encoder: Encoder, model: Model) -> None:
        super().__init__()
        self.features = stages(1, channels, encoder.widths, encoder.depth, kernel=5, stride=2, norm=model.norm)
        self.project = nn.Sequential(
            nn.Dropout(model.dropout), nn.Linear(encoder.widths[-1], model.embedding), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.features(x).mean(dim=2))
