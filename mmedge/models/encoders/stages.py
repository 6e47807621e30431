"""Stages of convolutions, which the encoders of pictures, series and texts have in common."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def stages(
    dims: int, channels: int, widths: Sequence[int], depth: int, *, kernel: int, stride: int, norm: str
) -> nn.Sequential:
    """Convolutions over ``dims`` axes, ``depth`` a width, each with a norm and ReLU; the first of a width strides.

    ``norm``: batch, or group, of four channels each (Wu & He 2018, "Group normalization") where the width allows it.
    """
    convolution, batch_norm = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d)}[dims]
    layers: list[nn.Module] = []
    for width in widths:
        for index in range(depth):
            step = stride if index == 0 else 1
            layers += [convolution(channels, width, kernel, step, kernel // 2, bias=False)]
            layers += [batch_norm(width) if norm == "batch" else _groups(width), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def _groups(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // 4 if width % 4 == 0 else 1, width)
