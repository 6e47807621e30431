"""Encoder of tables, and of whatever else has no places: a multi-layer perceptron."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from mmedge.recipe import Encoder, Model
from mmedge.spec import ModalitySpec


def build(spec: ModalitySpec, encoder: Encoder, model: Model) -> nn.Module:
    """The encoder of a tensor of any shape, which it flattens."""
    return DenseEncoder(int(np.prod(spec.shape)), encoder, model)


class DenseEncoder(nn.Module):
    """A multi-layer perceptron over a flattened input. ``forward``: float32 [batch, ...] -> [batch, embedding]."""

    def __init__(self, inputs: int, encoder: Encoder, model: Model) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for width in encoder.widths:
            layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(model.dropout)]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, model.embedding), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
