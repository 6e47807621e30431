"""The built-in head of arrays: a few transposed convolutions from features to frames; and a network's own arrays laid out flat."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmedge.models.encoders.stages import normed
from mmedge.recipe import Model
from mmedge.tasks import Head

# Frames that the first convolution makes, at most; each of the others doubles them.
_FIRST = 12
# A length in standard units is told from half of the most frames, in quarters of them.
_MIDDLE, _UNIT = 0.5, 0.25


class ArrayDecoder(nn.Module):
    """Features to an array in the targets' own unit. ``forward``: float32 [batch, features] -> [batch, W], flat as ``tasks.frames`` says.

    The first transposed convolution makes a few frames of the features, each of the next doubles them, and a last
    convolution gives a frame's numbers; all are plain operators with a free batch. Where lengths vary, a linear layer
    of the features tells how many frames there are.
    """

    def __init__(self, features: int, head: Head, model: Model) -> None:
        super().__init__()
        longest, count, width = head.shape[0], math.prod(head.shape[1:]), model.decoder
        doublings = max(0, math.ceil(math.log2(longest / _FIRST)))
        first = math.ceil(longest / 2**doublings)
        layers: list[nn.Module] = [nn.ConvTranspose1d(features, width, first, bias=False), normed(1, width, model.norm)]
        for _ in range(doublings):
            layers += [nn.ReLU(), nn.ConvTranspose1d(width, width, 4, 2, 1, bias=False), normed(1, width, model.norm)]
        self.frames = nn.Sequential(*layers, nn.ReLU(), nn.Conv1d(width, count, 5, padding=2))
        self.length = nn.Linear(features, 1) if head.varies else None
        self.longest = longest
        self.register_buffer("mean", torch.tensor(head.mean, dtype=torch.float32).reshape(-1, 1))
        self.register_buffer("std", torch.tensor(head.std, dtype=torch.float32).reshape(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        frames = self.frames(x.unsqueeze(2))[:, :, : self.longest] * self.std + self.mean
        flat = frames.transpose(1, 2).flatten(1)
        if self.length is None:
            return flat
        return torch.cat([flat, (self.length(x) * _UNIT + _MIDDLE) * self.longest], dim=1)


class Flat(nn.Module):
    """A network's own arrays, [batch, frames, ...] or flat, in one row a sample; of a fresh one brought to the targets' own unit."""

    def __init__(self, head: Head, *, fresh: bool) -> None:
        super().__init__()
        scale: list[Tensor] = []
        for part, of_length in ((head.mean, _MIDDLE), (head.std, _UNIT)):
            each = torch.tensor(part, dtype=torch.float32).repeat(head.shape[0])
            scale.append(torch.cat([each, torch.full((int(head.varies),), of_length * head.shape[0])]))
        self.fresh = fresh
        if fresh:
            self.register_buffer("mean", scale[0])
            self.register_buffer("std", scale[1])

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        fits = self.fresh and flat.shape[1] == len(self.mean)  # of another width it is left alone, and told
        return flat * self.std + self.mean if fits else flat
