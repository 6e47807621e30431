"""The head of the built-in network that writes a text: a decoder behind the fused features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmedge.models.decoders import DECODERS
from mmedge.recipe import Model
from mmedge.tasks.head import Decoding


class Generator(nn.Module):
    """Writes a text of fused features, the memory.

    ``forward(memory [rows, features]) -> float32 [rows, 1 + steps]``: the log probability of the text that takes the
    likeliest token each time, and its tokens. ``forward(memory, texts int64 [rows, steps]) -> logits [rows, steps,
    vocabulary]``: of each token after those of the text before it (teacher forcing, Williams & Zipser 1989).
    """

    def __init__(self, model: Model, how: Decoding) -> None:
        super().__init__()
        self.end, self.steps = how.end, how.steps
        self.decoder = DECODERS[model.text_decoder.kind](
            model.hidden, how.vocabulary, how.steps, model.text_decoder, model.dropout
        )

    def forward(self, memory: Tensor, texts: Tensor | None = None) -> Tensor:
        if texts is None:
            return self.write(memory)
        first = torch.full_like(texts[:, :1], self.end)
        # A text that is not known is all -1, of which nothing is learned.
        return self.decoder.forced(memory, torch.cat([first, texts[:, :-1].clamp(min=0)], dim=1))

    @torch.no_grad()
    def write(self, memory: Tensor) -> Tensor:
        """See ``Generator``; ends once all rows have."""
        state, token = self.decoder.start(memory), torch.full_like(memory[:, 0], self.end, dtype=torch.int64)
        total, over = torch.zeros_like(memory[:, 0]), token < 0
        written = memory.new_zeros(len(memory), self.steps)
        for step in range(self.steps):
            likely, state = self.next(token, state)
            best, token = likely[:, 1:].max(dim=1)  # 0 is padding, which nobody writes
            token = torch.where(over, 0, token + 1)
            total, over = total + torch.where(over, 0, best), over | (token == self.end)
            written[:, step] = token
            if over.all():
                break
        return torch.cat([total[:, None], written], dim=1)

    def next(self, token: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(log probabilities [rows, vocabulary] of the next token, the state after it)."""
        logits, changed = self.decoder.step(token, state)
        return torch.log_softmax(logits, dim=1), {**state, **changed}


class Beginning(nn.Module):
    """What runs once a text: everything before the first step, and the other heads. ``network``: a ``FusionNet``."""

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        self.network, self.name = network, head

    def forward(self, present: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """{other head: its output; ``HEAD.start.STATE``: the state before the first step}."""
        fused = self.network.fused(present, **inputs)
        heads = self.network.head_modules()
        outputs = {name: head(fused) for name, head in heads.items() if name != self.name}
        state = heads[self.name].decoder.start(fused)
        return outputs | {f"{self.name}.start.{part}": x for part, x in state.items()}


class Step(nn.Module):
    """What runs once a token."""

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        self.generator, self.name = network.head_modules()[head], head

    def forward(self, **given: Tensor) -> dict[str, Tensor]:
        """``HEAD.token``, ``HEAD.state.STATE`` -> ``HEAD.scores`` (log probabilities), ``HEAD.next.STATE`` of what changes."""
        before = f"{self.name}.state."
        state = {part.removeprefix(before): x for part, x in given.items() if part.startswith(before)}
        logits, changed = self.generator.decoder.step(given[f"{self.name}.token"], state)
        outputs = {f"{self.name}.scores": torch.log_softmax(logits, dim=1)}
        return outputs | {f"{self.name}.next.{part}": x for part, x in changed.items()}
