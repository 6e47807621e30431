"""Encoder of arrays of the user's own: [channels, height, width] as a picture, any other shape as a table."""

from __future__ import annotations

from torch import nn

from mmedge.models.encoders import image, tabular
from mmedge.recipe import Encoder, Model
from mmedge.spec import ArraySpec


def build(spec: ArraySpec, encoder: Encoder, model: Model) -> nn.Module:
    return (image if len(spec.shape) == 3 else tabular).build(spec, encoder, model)
