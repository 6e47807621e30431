"""Encoders of what comes one after another, by gated recurrent units (Cho et al. 2014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmedge.errors import MmedgeError
from mmedge.models.encoders.stages import over_frames
from mmedge.recipe import Encoder, Model
from mmedge.spec import AudioSpec, SensorSpec, TextSpec


class OfSeries(nn.Module):
    """``depth`` layers in both directions, of the last of ``widths`` units each, and a linear layer over the mean in time.

    ``forward``: float32 [batch, channels, length] -> [batch, embedding].
    """

    def __init__(self, spec: SensorSpec, encoder: Encoder, model: Model) -> None:
        super().__init__()
        width = encoder.widths[-1]
        self.steps = nn.GRU(spec.channels, width, encoder.depth, batch_first=True, bidirectional=True)
        self.project = nn.Sequential(nn.Dropout(model.dropout), nn.Linear(2 * width, model.embedding), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.steps(x.transpose(1, 2))[0].mean(dim=1))


class OfSounds(nn.Module):
    """Two convolutions over a spectrogram's frames, each halving them, and ``depth`` layers in both directions; a linear layer
    over the mean in time and the last units of either direction, which tell in which order something was said.

    ``forward``: float32 [batch, 1, bands, frames] -> [batch, embedding].
    """

    def __init__(self, spec: AudioSpec, encoder: Encoder, model: Model) -> None:
        super().__init__()
        width = encoder.widths[-1]
        self.frames = over_frames(spec, encoder, model)
        self.steps = nn.GRU(width, width, encoder.depth, batch_first=True, bidirectional=True)
        self.project = nn.Sequential(nn.Dropout(model.dropout), nn.Linear(4 * width, model.embedding), nn.ReLU())
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        found = self.steps(self.frames(x.squeeze(1)).transpose(1, 2))[0]
        ends = [found[:, -1, : self.width], found[:, 0, self.width :]]
        return self.project(torch.cat([found.mean(dim=1), *ends], dim=1))


class OfTexts(nn.Module):
    """Token embeddings of the first of ``widths``, units of the last, and a linear layer over their mean where there are words.

    In reading direction alone, so that what follows a text, padding, has no influence.
    ``forward``: int64 [batch, length] -> [batch, embedding].
    """

    def __init__(self, spec: TextSpec, encoder: Encoder, model: Model) -> None:
        super().__init__()
        if spec.tokens is None:
            raise MmedgeError("the text has no tokenizer yet", todo="prepare the data first")
        self.pad, self.token_dropout = spec.pad, model.token_dropout
        self.embed = nn.Embedding(spec.tokens, encoder.widths[0])
        self.steps = nn.GRU(encoder.widths[0], encoder.widths[-1], encoder.depth, batch_first=True)
        self.project = nn.Sequential(
            nn.Dropout(model.dropout), nn.Linear(encoder.widths[-1], model.embedding), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = (x != self.pad).to(torch.float32).unsqueeze(2)
        embedded = self.embed(x)
        if self.training and self.token_dropout:
            embedded = embedded * (torch.rand_like(seen) >= self.token_dropout)
        read = self.steps(embedded)[0] * seen
        return self.project(read.sum(dim=1) / seen.sum(dim=1).clamp(min=1.0))
