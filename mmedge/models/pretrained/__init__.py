"""Encoders that have learnt elsewhere: a file each way to name one, and the one table of them.

A network takes a tensor of the modality's spec, [batch, *shape], to float32 tokens [batch, length, width], maps [batch,
width, height, width] or features [batch, width]. ``body`` pools them, ``Tuned`` brings them to the model's embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmedge.errors import UsageError, first_line
from mmedge.models.pretrained import efficientnet, folder, huggingface, preprocessing, timm_models
from mmedge.models.pretrained.brought import Brought
from mmedge.models.pretrained.huggingface import attended
from mmedge.recipe import Model, Pretrained
from mmedge.spec import ModalitySpec

_SPREAD = 0.02


@dataclass(frozen=True)
class Origin:
    """``network(encoder, spec, fresh)``: with its weights unless ``fresh``; ``brought(encoder, spec)``: the preprocessing it
    was trained under; ``described(encoder)``: the section with all that building it again needs beside weights."""

    network: Callable[[Pretrained, Any, bool], nn.Module]
    brought: Callable[[Pretrained, Any], Brought]
    described: Callable[[Pretrained], Pretrained] = lambda encoder: encoder


ORIGINS: dict[str, Origin] = {
    "hf": Origin(huggingface.network, preprocessing.brought, folder.described),
    "timm": Origin(timm_models.network, timm_models.brought),
    "architecture": Origin(efficientnet.network, efficientnet.brought),
}


def described(model: Model) -> Model:
    """A model's section with all that building it again needs beside weights, wherever its encoders came from."""
    encoders = {name: origin_of(encoder).described(encoder) for name, encoder in model.pretrained.items()}
    return model.model_copy(update={"encoders": {**model.encoders, **encoders}}) if encoders else model


def origin_of(encoder: Pretrained) -> Origin:
    """The row of the way in which an encoder is named."""
    return next(row for name, row in ORIGINS.items() if getattr(encoder, name) is not None)


def pretrained_encoder(name: str, spec: ModalitySpec, encoder: Pretrained, model: Model, *, fresh: bool) -> nn.Module:
    """The encoder of the modality ``name``, to ``model.embedding`` features. ``fresh``: without its weights, loaded later.

    Raises UsageError where the modality's tensor is none that it can take, or its weights are none that may be loaded;
    MissingDependency without the library that knows its architecture.
    """
    try:
        network = origin_of(encoder).network(encoder, spec, fresh)
        pooling = encoder.pooling or folder.pooling_of(encoder)
        return Tuned(Body(network, pooling, _padding(spec)), spec, model)
    except UsageError as error:
        raise UsageError(f"encoders.{name}: {error.what}", where=error.where, todo=error.todo) from error


def _padding(spec: ModalitySpec) -> int | None:
    return getattr(spec, "pad", 0) if spec.dtype == "int64" else None


class Body(nn.Module):
    """A network, and one vector of what it gives: what learnt elsewhere, and may be frozen.

    ``forward``: [batch, *shape] -> float32 [batch, width], by ``map`` tokens [batch, length, width]. ``pad``: the id of
    padding, None of what is no text.
    """

    def __init__(self, network: nn.Module, pooling: str, pad: int | None) -> None:
        super().__init__()
        self.network, self.pooling, self.pad = network, pooling, pad

    def forward(self, x: Tensor) -> Tensor:
        states = self.network(x)
        if states.dim() == 2:
            return states
        maps = states.dim() == 4
        if maps:
            states = states.flatten(2).transpose(1, 2)
        if self.pooling == "map":
            return states
        if self.pooling == "cls" and not maps:  # a map's first place is a corner of the picture
            return states[:, 0]
        if self.pad is None:
            return states.mean(dim=1)
        seen = attended(x, self.pad).to(states.dtype).unsqueeze(2)
        return (states * seen).sum(dim=1) / seen.sum(dim=1)


class Attended(nn.Module):
    """Pooling by attention from a learned query, of one head. ``forward``: tokens [batch, length, width], bool [batch, length] or
    None, true where a token counts -> [batch, width]. Lee et al. 2019, "Set Transformer", of one seed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(width) * _SPREAD)

    def forward(self, tokens: Tensor, counts: Tensor | None) -> Tensor:
        scores = (tokens * self.query).sum(dim=2)
        if counts is not None:
            scores = scores.masked_fill(~counts, -1e4)
        return (tokens * scores.softmax(dim=1).unsqueeze(2)).sum(dim=1)


class Tuned(nn.Module):
    """A pretrained ``body`` under a norm and a linear layer. ``forward``: [batch, *shape] -> float32 [batch, embedding].

    Not ``pooled``, what ``map`` would pool stays tokens, [batch, length, embedding], for a fusion of tokens.
    """

    def __init__(self, body: Body, spec: ModalitySpec, model: Model) -> None:
        super().__init__()
        self.body, self.pooled = body, True
        try:
            with torch.no_grad():
                width = body.eval()(torch.zeros(1, *spec.shape, dtype=getattr(torch, spec.dtype))).shape[-1]
            body.train()  # as it was: LeViT keeps what it made of weights in evaluation, and others may be loaded yet
        except Exception as error:  # of code that is not ours; timm asserts the size of its positions
            raise UsageError(
                f"the network does not take {spec.kind} {list(spec.shape)}: {first_line(error)}",
                todo="give the modality the sizes that it was trained with: data.modalities, teacher.preprocessing",
            ) from error
        self.pool = Attended(width) if body.pooling == "map" else None
        self.project = nn.Sequential(
            nn.LayerNorm(width), nn.Dropout(model.dropout), nn.Linear(width, model.embedding), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        if self.pool is not None and features.dim() == 3 and self.pooled:
            features = self.pool(features, None if self.body.pad is None else attended(x, self.body.pad))
        return self.project(features)
