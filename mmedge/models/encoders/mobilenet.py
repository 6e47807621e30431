"""Encoder of maps with few multiplications: inverted residuals of depthwise convolutions with squeeze-and-excitation."""

from __future__ import annotations

from torch import Tensor, nn

from mmedge.models.encoders.stages import normed, over_map
from mmedge.recipe import Encoder, Model
from mmedge.spec import ModalitySpec

_EXPANSION, _SQUEEZE = 3, 4


def build(spec: ModalitySpec, encoder: Encoder, model: Model) -> nn.Module:
    """The encoder of maps [channels, height, width] after MobileNetV3 (Howard et al. 2019)."""
    channels, first = spec.shape[0], encoder.widths[0]
    layers = [nn.Conv2d(channels, first, 3, 2, 1, bias=False), normed(2, first, model.norm), nn.Hardswish()]
    before = first
    for place, width in enumerate(encoder.widths):
        for index in range(encoder.depth):
            layers.append(InvertedResidual(before, width, 2 if place and not index else 1, model.norm))
            before = width
    return over_map(nn.Sequential(*layers), before, model)


class InvertedResidual(nn.Module):
    """1x1 to more channels, a 3x3 of each channel alone, a weight a channel, and 1x1 back; added to the input where it fits.

    ``forward``: float32 [batch, inputs, height, width] -> [batch, width, height / stride, width / stride].
    """

    def __init__(self, inputs: int, width: int, stride: int, norm: str) -> None:
        super().__init__()
        inside, self.added = inputs * _EXPANSION, stride == 1 and inputs == width
        self.spread = nn.Sequential(nn.Conv2d(inputs, inside, 1, bias=False), normed(2, inside, norm), nn.Hardswish())
        self.depthwise = nn.Sequential(
            nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False), normed(2, inside, norm), nn.Hardswish()
        )
        squeezed = max(4, inside // _SQUEEZE)
        self.excite = nn.Sequential(
            nn.Conv2d(inside, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, inside, 1), nn.Hardsigmoid()
        )
        self.join = nn.Sequential(nn.Conv2d(inside, width, 1, bias=False), normed(2, width, norm))

    def forward(self, x: Tensor) -> Tensor:
        inside = self.depthwise(self.spread(x))
        out = self.join(inside * self.excite(inside.mean(dim=(2, 3), keepdim=True)))
        return x + out if self.added else out
