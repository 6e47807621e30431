"""A decoder of attention over what was written, by a cache of keys and values, and over the memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge.recipe import TextDecoder

# Stands for what is not looked at: exp of it is 0 in every precision that runs.
_NEVER = -1e4


class TransformerDecoder(nn.Module):
    """Layers that look at the tokens before and at the memory (Vaswani et al. 2017, norms first), the memory as a few tokens.

    State: ``cache``, float [rows, depth, 2, steps, width], keys and values of what was written, ``position``, int64 [rows],
    and ``memory``, float [rows, depth, 2, tokens, width], the memory's keys and values, which no step changes. The cache is
    of one size, so that a step is one graph; what is not written yet is not looked at.
    """

    places: Tensor

    def __init__(self, features: int, vocabulary: int, steps: int, size: TextDecoder, dropout: float) -> None:
        super().__init__()
        self.width, self.steps, self.tokens = size.width, steps, size.memory
        self.begin = nn.Linear(features, size.memory * size.width)
        self.embed, self.place = nn.Embedding(vocabulary, size.width), nn.Embedding(steps, size.width)
        self.layers = nn.ModuleList(_Layer(size.width, size.heads, dropout) for _ in range(size.depth))
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(size.width)
        self.out = nn.Linear(size.width, vocabulary)
        self.register_buffer("places", torch.arange(steps), persistent=False)

    def _memory(self, memory: Tensor) -> list[Tensor]:
        """[rows, 2, tokens, width] of each layer."""
        tokens = self.begin(memory).unflatten(1, (self.tokens, self.width))
        return [torch.stack(layer.seen(tokens).chunk(2, dim=2), dim=1) for layer in self.layers]

    def start(self, memory: Tensor) -> dict[str, Tensor]:
        """See ``Decoder``."""
        of_memory = torch.stack(self._memory(memory), dim=1)
        # Zeros made of what is there: shapes that hang on the batch alone are no graph's outputs on every backend.
        nothing = (of_memory[:, :, :, :1] * 0).expand(-1, -1, -1, self.steps, -1).contiguous()
        position = (memory[:, 0] * 0).to(torch.int64)
        return {"cache": nothing, "position": position, "memory": of_memory}

    def step(self, token: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Decoder``."""
        position, cache = state["position"], state["cache"]
        x = (self.embed(token) + self.place(position))[:, None]
        now, before = self.places == position[:, None], self.places <= position[:, None]
        found = []
        for number, layer in enumerate(self.layers):
            query, *own = layer.own(layer.norms[0](x)).chunk(3, dim=2)
            kept = torch.where(now[:, None, :, None], torch.stack(own, dim=1), cache[:, number])
            x = x + layer.attend(layer.join, query, kept, before[:, None, None, :])
            x = layer.rest(x, state["memory"][:, number])
            found.append(kept)
        return self.out(self.norm(x[:, 0])), {"cache": torch.stack(found, dim=1), "position": position + 1}

    def forced(self, memory: Tensor, tokens: Tensor) -> Tensor:
        """See ``Decoder``."""
        count = tokens.shape[1]
        x = self.dropout(self.embed(tokens) + self.place.weight[:count])
        before = self.places[:count] <= self.places[:count, None]
        for layer, of_memory in zip(self.layers, self._memory(memory)):
            query, *own = layer.own(layer.norms[0](x)).chunk(3, dim=2)
            x = x + layer.attend(layer.join, query, torch.stack(own, dim=1), before)
            x = layer.rest(x, of_memory)
        return self.out(self.norm(x))


class _Layer(nn.Module):
    """Attention over what was written, attention over the memory, and two products of each token by itself."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ask, self.seen, self.join_seen = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.each = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def attend(self, join: nn.Module, query: Tensor, kept: Tensor, looked: Tensor | None) -> Tensor:
        """[rows, n, width] of queries [rows, n, width] over keys and values [rows, 2, m, width]; ``looked``: bool, at which."""
        asks = query.unflatten(2, (self.heads, -1)).transpose(1, 2)
        keys, values = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in kept.unbind(dim=1))
        near = asks @ keys.transpose(2, 3) * asks.shape[-1] ** -0.5
        if looked is not None:
            near = near.masked_fill(~looked, _NEVER)
        return self.dropout(join((F.softmax(near, dim=-1) @ values).transpose(1, 2).flatten(2)))

    def rest(self, x: Tensor, memory: Tensor) -> Tensor:
        """What follows the attention over what was written: [rows, n, width], memory [rows, 2, m, width]."""
        x = x + self.attend(self.join_seen, self.ask(self.norms[1](x)), memory, None)
        return x + self.dropout(self.each(self.norms[2](x)))
