"""Encoder of maps by residual blocks."""

from __future__ import annotations

from torch import Tensor, nn

from mmedge.models.encoders.stages import normed, over_map
from mmedge.recipe import Encoder, Model
from mmedge.spec import ModalitySpec


def build(spec: ModalitySpec, encoder: Encoder, model: Model) -> nn.Module:
    """The encoder of maps [channels, height, width] after ResNet (He et al. 2016), ``depth`` basic blocks a width."""
    before, first = spec.shape[0], encoder.widths[0]
    layers: list[nn.Module] = [nn.Conv2d(before, first, 3, 1, 1, bias=False), normed(2, first, model.norm), nn.ReLU()]
    before = first
    for width in encoder.widths:
        for index in range(encoder.depth):
            layers.append(Residual(before, width, 1 if index else 2, model.norm))
            before = width
    return over_map(nn.Sequential(*layers), before, model)


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 where the size changes.

    ``forward``: float32 [batch, inputs, height, width] -> [batch, width, height / stride, width / stride].
    """

    def __init__(self, inputs: int, width: int, stride: int, norm: str) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
            normed(2, width, norm),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            normed(2, width, norm),
        )
        changes = stride != 1 or inputs != width
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), normed(2, width, norm))
            if changes
            else nn.Identity()
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.inner(x) + self.shortcut(x))
