"""Encoder of maps by large depthwise convolutions and a perceptron a place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmedge.models.encoders.stages import over_map
from mmedge.recipe import Encoder, Model
from mmedge.spec import ModalitySpec

_EXPANSION, _SCALE = 4, 1e-2


def build(spec: ModalitySpec, encoder: Encoder, model: Model) -> nn.Module:
    """The encoder of maps [channels, height, width] after ConvNeXt (Liu et al. 2022), ``depth`` blocks a width."""
    before, layers = spec.shape[0], list[nn.Module]()
    for width in encoder.widths:
        layers += [nn.Conv2d(before, width, 3, 2, 1), *(Block(width) for _ in range(encoder.depth))]
        before = width
    return over_map(nn.Sequential(*layers), before, model)


class Block(nn.Module):
    """A 7x7 convolution of each channel alone, layer norm and a perceptron at each place, weighed and added to the input.

    ``forward``: float32 [batch, width, height, width] -> the same shape.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, 1, 3, groups=width), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, _EXPANSION * width), nn.GELU(), nn.Linear(_EXPANSION * width, width))
        self.scale = nn.Parameter(torch.full((width,), _SCALE))

    def forward(self, x: Tensor) -> Tensor:
        places = self.depthwise(x).permute(0, 2, 3, 1)
        return x + (self.scale * self.feed(self.norm(places))).permute(0, 3, 1, 2)
