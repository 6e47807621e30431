"""A decoder of gated recurrent units: the cheapest step, whatever stands before it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge.recipe import TextDecoder


class GruDecoder(nn.Module):
    """GRU layers (Cho et al. 2014) that begin with the memory and see it beside every token.

    State: ``hidden``, float [rows, depth, width], and ``memory``, float [rows, width], which no step changes.
    """

    def __init__(self, features: int, vocabulary: int, steps: int, size: TextDecoder, dropout: float) -> None:
        super().__init__()
        self.width, self.depth = size.width, size.depth
        self.begin = nn.Linear(features, size.width * (size.depth + 1))
        self.embed = nn.Embedding(vocabulary, size.width)
        self.layers = nn.GRU(size.width, size.width, size.depth, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(size.width, vocabulary)

    def start(self, memory: Tensor) -> dict[str, Tensor]:
        """See ``Decoder``."""
        seen, hidden = self.begin(memory).split([self.width, self.width * self.depth], dim=1)
        return {"hidden": torch.tanh(hidden).unflatten(1, (self.depth, self.width)), "memory": seen}

    def step(self, token: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Decoder``; written out, since its products can be quantized, and those of a GRU's own operator cannot."""
        x = self.embed(token) + state["memory"]
        found = []
        for layer in range(self.depth):
            before = state["hidden"][:, layer]
            given = F.linear(x, *self._weights("ih", layer)).chunk(3, dim=1)
            kept = F.linear(before, *self._weights("hh", layer)).chunk(3, dim=1)
            reset, update = torch.sigmoid(given[0] + kept[0]), torch.sigmoid(given[1] + kept[1])
            x = torch.lerp(torch.tanh(given[2] + reset * kept[2]), before, update)
            found.append(x)
        return self.out(x), {"hidden": torch.stack(found, dim=1)}

    def _weights(self, of: str, layer: int) -> tuple[Tensor, Tensor]:
        return getattr(self.layers, f"weight_{of}_l{layer}"), getattr(self.layers, f"bias_{of}_l{layer}")

    def forced(self, memory: Tensor, tokens: Tensor) -> Tensor:
        """See ``Decoder``."""
        state = self.start(memory)
        x = self.dropout(self.embed(tokens) + state["memory"][:, None])
        return self.out(self.dropout(self.layers(x, state["hidden"].transpose(0, 1).contiguous())[0]))
