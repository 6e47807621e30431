"""Networks that write a text token by token, each a file: the state that they carry is explicit, so that a step costs one step.

THE table: a new one is its file here, and a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from mmedge.models.decoders.gru import GruDecoder
from mmedge.models.decoders.transformer import TransformerDecoder

# {name: [rows, ...]}: what a decoder carries from one step to the next.
State = Mapping[str, Tensor]


class Decoder(Protocol):
    """What a decoder has, beside being an ``nn.Module`` made of (memory's features, vocabulary, steps, ``recipe.TextDecoder``, dropout)."""

    def start(self, memory: Tensor) -> dict[str, Tensor]:
        """The state before the first step, of memory [rows, features]."""

    def step(self, token: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """(logits [rows, vocabulary] of the token after ``token``, int64 [rows]; what of the state has changed)."""

    def forced(self, memory: Tensor, tokens: Tensor) -> Tensor:
        """Logits [rows, steps, vocabulary] after each of ``tokens``, int64 [rows, steps], all at once: what ``step`` gives one by one."""


DECODERS: dict[str, Callable[..., Any]] = {"gru": GruDecoder, "transformer": TransformerDecoder}
