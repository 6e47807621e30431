"""Encoders of one modality each: a tensor of the modality's spec to an embedding [batch, embedding].

Only operators that export to one ONNX node each are used; adaptive pooling, which becomes some twenty, is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.errors import MmedgeError
from mmedge.recipe import Encoder, Model
from mmedge.spec import ModalitySpec, SensorSpec, TextSpec


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


class SeriesEncoder(nn.Module):
    """Stages of 1-D convolutions over 5 steps, each halving the length, then a linear layer over the mean in time.

    The mean, since a movement is the same wherever its window happens to start.

    ``forward``: float32 [batch, channels, length] -> [batch, embedding].
    """

    def __init__(self, shape: Sequence[int], widths: Sequence[int], depth: int, embedding: int, dropout: float) -> None:
        super().__init__()
        channels, _ = shape
        layers: list[nn.Module] = []
        for out_channels in widths:
            for index in range(depth):
                stride = 2 if index == 0 else 1
                layers += [
                    nn.Conv1d(channels, out_channels, 5, stride, 2, bias=False),
                    nn.BatchNorm1d(out_channels),
                    nn.ReLU(),
                ]
                channels = out_channels
        self.features = nn.Sequential(*layers)
        self.project = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, embedding), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.features(x).mean(dim=2))


class TextEncoder(nn.Module):
    """Token embeddings of the first width, 1-D convolutions over 3 tokens, and the mean over what is no padding.

    ``forward``: int64 [batch, length] -> [batch, embedding]. A text of nothing but padding gives a finite vector.
    ``masked``: padding is nothing after every layer, so that the output does not depend on how much of it there is.
    """

    def __init__(
        self,
        tokens: int,
        pad: int,
        widths: Sequence[int],
        depth: int,
        embedding: int,
        dropout: float,
        masked: bool = False,
    ) -> None:
        super().__init__()
        self.pad, self.masked = pad, masked
        self.embed = nn.Embedding(tokens, widths[0])
        layers: list[nn.Module] = []
        channels = widths[0]
        for out_channels in widths[1:] or widths:
            for _ in range(depth):
                layers += [
                    nn.Conv1d(channels, out_channels, 3, 1, 1, bias=False),
                    nn.BatchNorm1d(out_channels),
                    nn.ReLU(),
                ]
                channels = out_channels
        self.features = nn.Sequential(*layers)
        self.project = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, embedding), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        mask = (x != self.pad).to(torch.float32).unsqueeze(1)  # [batch, 1, length]
        features = self.embed(x).transpose(1, 2) * mask
        for layer in self.features:
            features = layer(features)
            if self.masked and isinstance(layer, nn.ReLU):
                features = features * mask
        features = features * mask
        return self.project(features.sum(dim=2) / mask.sum(dim=2).clamp(min=1.0))


def encoder_of(spec: ModalitySpec, encoder: Encoder, model: Model) -> nn.Module:
    """The built-in encoder of a modality's kind, from its tensor to ``model.embedding`` features."""
    if isinstance(spec, TextSpec):
        if spec.tokens is None:
            raise MmedgeError("the text has no tokenizer yet", todo="prepare the data first")
        sizes = (encoder.widths, encoder.depth, model.embedding, model.dropout)
        return TextEncoder(spec.tokens, spec.pad, *sizes, masked=spec.shortest is not None)
    if isinstance(spec, SensorSpec):
        return SeriesEncoder(spec.shape, encoder.widths, encoder.depth, model.embedding, model.dropout)
    if len(spec.shape) == 3:
        return ConvEncoder(spec.shape, encoder.widths, encoder.depth, model.embedding, model.dropout)
    return DenseEncoder(int(np.prod(spec.shape)), encoder.widths, model.embedding, model.dropout)
