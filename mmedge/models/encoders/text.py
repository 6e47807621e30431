"""Encoder of texts: token embeddings and convolutions along them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmedge.errors import MmedgeError
from mmedge.models.encoders.stages import stages
from mmedge.recipe import Encoder, Model
from mmedge.spec import TextSpec


def build(spec: TextSpec, encoder: Encoder, model: Model) -> nn.Module:
    """The encoder of token ids [length]; raises MmedgeError where the text has no tokenizer yet."""
    return TextEncoder(spec, encoder, model)


class TextEncoder(nn.Module):
    """Token embeddings of the first width, 1-D convolutions over 3 tokens, and the mean over what is no padding.

    ``forward``: int64 [batch, length] -> [batch, embedding]. A text of nothing but padding gives a finite vector.
    ``masked``, where texts may be of any length: padding is nothing after every layer, so that the output does not
    depend on how much of it there is.
    """

    def __init__(self, spec: TextSpec, encoder: Encoder, model: Model) -> None:
        super().__init__()
        if spec.tokens is None:
            raise MmedgeError("the text has no tokenizer yet", todo="prepare the data first")
        self.pad, self.masked = spec.pad, spec.shortest is not None
        first, *rest = encoder.widths
        self.embed = nn.Embedding(spec.tokens, first)
        self.features = stages(1, first, rest or [first], encoder.depth, kernel=3, stride=1)
        self.project = nn.Sequential(
            nn.Dropout(model.dropout), nn.Linear(encoder.widths[-1], model.embedding), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = (x != self.pad).to(torch.float32).unsqueeze(1)  # [batch, 1, length]
        features = self.embed(x).transpose(1, 2) * mask
        for layer in self.features:
            features = layer(features)
            if self.masked and isinstance(layer, nn.ReLU):
                features = features * mask
        features = features * mask
        return self.project(features.sum(dim=2) / mask.sum(dim=2).clamp(min=1.0))
