"""EfficientNet-lite0 (Google 2020: EfficientNet without squeeze-and-excitation, with ReLU6), for its published weights.

Names and padding are those of the package efficientnet-lite-pytorch, whose weights are TensorFlow's: where a stride does
not divide a map evenly, the odd pixel is filled behind.
"""

from __future__ import annotations

from torch import Tensor, nn

from mmedge.errors import UsageError
from mmedge.models.pretrained.brought import Brought, of_image
from mmedge.models.pretrained.weights import load_into
from mmedge.recipe import Pretrained
from mmedge.spec import ImageSpec, ModalitySpec

# (blocks, kernel, stride of the first, expansion, channels): Tan & Le 2019, table 1.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip
_FIRST, _LAST, _EPSILON, _SIDE = 32, 1280, 1e-3, 224


def network(encoder: Pretrained, spec: ModalitySpec, fresh: bool) -> nn.Module:
    """The network without its classifier: float32 [batch, 3, height, width] -> maps [batch, 1280, height / 32, width / 32]."""
    if not isinstance(spec, ImageSpec) or spec.channels != 3:
        raise UsageError(f"{encoder.architecture} takes pictures of 3 channels, not {spec.kind} {list(spec.shape)}")
    module = EfficientNetLite((spec.height, spec.width))
    if not fresh:
        load_into(module, encoder.weights, without="_fc")
    return module


def brought(encoder: Pretrained, spec: ModalitySpec) -> Brought:
    """What it was trained with: (x - 127) / 128 of pixels to 255, 224 x 224, cut out of the middle."""
    if not isinstance(spec, ImageSpec):
        return Brought(spec)
    return Brought(of_image(spec, (_SIDE, _SIDE), (127 / 255,), (128 / 255,), center=True))


class _Same(nn.Conv2d):
    """A convolution that fills a map of known size as TensorFlow's SAME does: the odd pixel right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, size: tuple[int, int], groups: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        whole = [max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in size]
        sides = [half for total in reversed(whole) for half in (total // 2, total - total // 2)]
        self.fill = nn.ZeroPad2d(tuple(sides)) if any(sides) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.fill(x))


class _Block(nn.Module):
    """1x1 to more channels, one convolution of each alone, 1x1 back; added to the input where it fits."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        inside, self.expands = inputs * expansion, expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, inside, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inside, _EPSILON, 0.01)
        self._depthwise_conv = _Same(inside, inside, kernel, stride, size, inside)
        self._bn1 = nn.BatchNorm2d(inside, _EPSILON, 0.01)
        self._project_conv = nn.Conv2d(inside, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, _EPSILON, 0.01)
        self.active, self.added = nn.ReLU6(), stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inside = self.active(self._bn0(self._expand_conv(x))) if self.expands else x
        inside = self.active(self._bn1(self._depthwise_conv(inside)))
        out = self._bn2(self._project_conv(inside))
        return x + out if self.added else out


class EfficientNetLite(nn.Module):
    """``forward``: float32 [batch, 3, height, width] of the given ``size`` -> [batch, 1280, height / 32, width / 32]."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self._conv_stem = _Same(3, _FIRST, 3, 2, size, 1)
        self._bn0, self.active = nn.BatchNorm2d(_FIRST, _EPSILON, 0.01), nn.ReLU6()
        blocks, channels = [], _FIRST
        size = _halved(size)
        for count, kernel, first, expansion, outputs in _STAGES:
            for number in range(count):
                stride = 1 if number else first
                blocks.append(_Block(channels, outputs, kernel, stride, expansion, size))
                channels, size = outputs, _halved(size) if stride == 2 else size
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, _LAST, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(_LAST, _EPSILON, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.active(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        out: Tensor = self.active(self._bn1(self._conv_head(x)))
        return out


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 2), -(-size[1] // 2)
