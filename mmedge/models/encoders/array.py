"""Encoder of arrays of the user's own: [channels, height, width] as a picture, ids as a text, any other shape as a table."""

from __future__ import annotations

from torch import Tensor, nn

from mmedge.models.encoders import image, tabular, text
from mmedge.recipe import Encoder, Model
from mmedge.spec import ArraySpec


def build(spec: ArraySpec, encoder: Encoder, model: Model) -> nn.Module:
    if spec.ids is not None:
        return nn.Sequential(_Rows(), text.build(spec, encoder, model))
    return (image if len(spec.shape) == 3 else tabular).build(spec, encoder, model)


class _Rows(nn.Module):
    """int64 [batch, *shape] -> [batch, numbers of the shape]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)
