"""Encoder of pictures, and of whatever else is maps of channels: 2-D convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmedge.models.encoders.stages import stages
from mmedge.recipe import Encoder, Model
from mmedge.spec import ModalitySpec


def build(spec: ModalitySpec, encoder: Encoder, model: Model) -> nn.Module:
    """The encoder of maps [channels, height, width]."""
    return ConvEncoder(spec.shape, encoder, model)


class ConvEncoder(nn.Module):
    """Stages of 3x3 convolutions, each halving the map, then a linear layer over what is left.

    ``forward``: float32 [batch, channels, height, width] -> [batch, embedding].
    """

    def __init__(self, shape: Sequence[int], encoder: Encoder, model: Model) -> None:
        super().__init__()
        channels, height, width = shape
        self.features = stages(2, channels, encoder.widths, encoder.depth, kernel=3, stride=2, norm=model.norm)
        for _ in encoder.widths:
            height, width = (height + 1) // 2, (width + 1) // 2
        left = encoder.widths[-1] * height * width
        self.project = nn.Sequential(
            nn.Flatten(), nn.Dropout(model.dropout), nn.Linear(left, model.embedding), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.features(x))
