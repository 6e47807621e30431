"""What encoders share: stages of convolutions, their norms, and a linear layer over the mean of a map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmedge.recipe import Model


def stages(
    dims: int, channels: int, widths: Sequence[int], depth: int, *, kernel: int, stride: int, norm: str
) -> nn.Sequential:
    """Convolutions over ``dims`` axes, ``depth`` a width, each with a norm and ReLU; the first of a width strides."""
    convolution = {1: nn.Conv1d, 2: nn.Conv2d}[dims]
    layers: list[nn.Module] = []
    for width in widths:
        for index in range(depth):
            step = stride if index == 0 else 1
            layers += [convolution(channels, width, kernel, step, kernel // 2, bias=False)]
            layers += [normed(dims, width, norm), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def normed(dims: int, width: int, norm: str) -> nn.Module:
    """A norm of ``width`` channels: batch, or group, of four channels each (Wu & He 2018) where the width allows it."""
    if norm == "batch":
        return {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[dims](width)
    return nn.GroupNorm(width // 4 if width % 4 == 0 else 1, width)


def over_map(features: nn.Module, width: int, model: Model) -> nn.Module:
    """``features``, which end in maps of ``width`` channels, and a linear layer over their means."""
    return OverMap(features, nn.Sequential(nn.Dropout(model.dropout), nn.Linear(width, model.embedding), nn.ReLU()))


class OverMap(nn.Module):
    """A linear layer over the means of maps. ``forward``: float32 [batch, channels, height, width] -> [batch, embedding]."""

    def __init__(self, features: nn.Module, project: nn.Module) -> None:
        super().__init__()
        self.features, self.project = features, project

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.features(x).mean(dim=(2, 3)))
