"""Encoders of one modality each: a tensor of the modality's spec to an embedding [batch, embedding].

Only operators that export to one ONNX node each are used; adaptive pooling, which becomes some twenty, is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ConvEncoder(nn.Module):
    """Stages of 3x3 convolutions, each halving the map, then a linear layer over what is left.

    ``forward``: float32 [batch, channels, height, width] -> [batch, embedding].
    """

    def __init__(self, shape: Sequence[int], widths: Sequence[int], depth: int, embedding: int, dropout: float) -> None:
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for out_channels in widths:
            for index in range(depth):
                stride = 2 if index == 0 else 1
                layers += [
                    nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(),
                ]
                channels = out_channels
            height, width = (height + 1) // 2, (width + 1) // 2
        self.features = nn.Sequential(*layers)
        self.project = nn.Sequential(
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels * height * width, embedding), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.features(x))


class DenseEncoder(nn.Module):
    """A multi-layer perceptron over a flattened input. ``forward``: float32 [batch, ...] -> [batch, embedding]."""

    def __init__(self, inputs: int, widths: Sequence[int], embedding: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, embedding), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
