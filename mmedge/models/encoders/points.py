"""Encoder of clouds: each point through the same layers, and the most that any point gives of each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmedge.models.encoders.stages import stages
from mmedge.recipe import Encoder, Model
from mmedge.spec import PointsSpec


def build(spec: PointsSpec, encoder: Encoder, model: Model) -> nn.Module:
    """The encoder of a cloud [channels + 1, points], the last row of which is its mask."""
    return PointNet(spec.shape[0], encoder, model)


class PointNet(nn.Module):
    """Layers that each point passes alone, the greatest of each channel over the points, and a linear layer (Qi et al. 2017).

    Without that paper's two networks that turn the input and the features: a few degrees of ``rotate`` and the scaling of the
    cloud do most of what they do. The order of the points has no influence, nor has padding: batch norm's statistics, too, are
    of points alone. Group norm, whose statistics an exported graph computes, has padding in them.
    ``forward``: float32 [batch, channels + 1, points] -> [batch, embedding].
    """

    def __init__(self, channels: int, encoder: Encoder, model: Model) -> None:
        super().__init__()
        self.features = stages(1, channels, encoder.widths, encoder.depth, kernel=1, stride=1, norm=model.norm)
        self.project = nn.Sequential(
            nn.Dropout(model.dropout), nn.Linear(encoder.widths[-1], model.embedding), nn.ReLU()
        )
        self._of_batch = model.norm == "batch"

    def forward(self, x: Tensor) -> Tensor:
        # Features are 0 or more: of padding they are made 0, the least there is.
        return self.project((self._of_points(x) * x[:, -1:]).amax(dim=2))

    def _of_points(self, x: Tensor) -> Tensor:
        """The features of each point, float32 [batch, width, points]."""
        if not self.training or not self._of_batch or torch.compiler.is_compiling():
            return self.features(x)
        there = x[:, -1] > 0
        if there.all() or there.sum() < 2:
            return self.features(x)
        features: Tensor = self.features(x.transpose(1, 2)[there].T[None])[0].T
        out = features.new_zeros(*there.shape, features.shape[1]).index_put((there,), features)
        return out.transpose(1, 2)
