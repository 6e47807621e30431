"""Encoders of videos: one of images for each frame, and what joins the frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmedge.errors import UsageError
from mmedge.models.encoders.transformer import SPREAD, Block
from mmedge.recipe import Encoder, Model
from mmedge.spec import VideoSpec


def of_frames(frame: Callable[[Any, Encoder, Model], nn.Module]) -> Callable[[VideoSpec, Encoder, Model], nn.Module]:
    """A video's encoder of an image's: ``frame`` as it stands in the table of encoders."""

    def build(spec: VideoSpec, encoder: Encoder, model: Model) -> nn.Module:
        joined = {"mean": Mean, "attention": Attention}[encoder.frames](spec.frames, encoder, model)
        return OfFrames(frame(spec.frame, encoder, model), joined)

    return build


class OfFrames(nn.Module):
    """Each frame by the same encoder, and ``joined`` over them.

    ``forward``: float32 [batch, frames, channels, height, width] -> [batch, embedding].
    """

    def __init__(self, frame: nn.Module, joined: nn.Module) -> None:
        super().__init__()
        self.frame, self.joined = frame, joined

    def forward(self, x: Tensor) -> Tensor:
        found = self.frame(x.flatten(0, 1))
        return self.joined(found.reshape(-1, x.shape[1], found.shape[1]))


class Mean(nn.Module):
    """The mean over the frames, whatever their order. ``forward``: [batch, frames, embedding] -> [batch, embedding]."""

    def __init__(self, frames: int, encoder: Encoder, model: Model) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


class Attention(nn.Module):
    """A block of attention over the frames, each with a learned vector of its place, and then their mean.

    ``forward``: [batch, frames, embedding] -> [batch, embedding].
    """

    def __init__(self, frames: int, encoder: Encoder, model: Model) -> None:
        super().__init__()
        if model.embedding % encoder.heads:
            raise UsageError(
                f"attention over frames of {model.embedding} features cannot have {encoder.heads} heads",
                todo="make model.embedding a multiple of the encoder's heads",
            )
        self.places = nn.Parameter(torch.randn(1, frames, model.embedding) * SPREAD)
        self.block = Block(model.embedding, encoder.heads, model.dropout)
        self.norm = nn.LayerNorm(model.embedding)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.block(x + self.places)).mean(dim=1)
