"""Several networks as one: fusion at the level of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.errors import UsageError


class Ensemble(nn.Module):
    """Networks that were trained one by one, whose outputs are averaged (Hansen & Salamon 1990, "Neural network ensembles").

    ``forward``: as of each of ``members`` -> {head: [batch, W]}. Of logits the mean is the logarithmic opinion pool (Heskes
    1998), so that what any task makes of one network's outputs it makes of these.
    """

    def __init__(self, members: Sequence[nn.Module], heads: Sequence[str]) -> None:
        super().__init__()
        self.members, self.heads = nn.ModuleList(members), tuple(heads)

    def forward(self, present: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        each = [member(present=present, **inputs) for member in self.members]
        return {name: torch.stack([one[name] for one in each]).mean(dim=0) for name in self.heads}


def ensemble(count: int, make: Callable[[], nn.Module], contract: Contract) -> nn.Module:
    """``count`` networks that ``make`` makes. Raises UsageError where their outputs have no mean: vectors and texts."""
    apart = [name for name, head in contract.heads.items() if head.towers or head.decoding]
    if apart:
        raise UsageError(
            f"the output {apart[0]!r} of several networks has no mean: each has a space or a text of its own",
            where="model.ensemble",
            todo="train one network, or name the others under distill.teachers",
        )
    return Ensemble([make() for _ in range(count)], tuple(contract.heads))


def members_of(module: nn.Module) -> list[nn.Module]:
    """The networks that are trained by themselves: those of an ensemble, or the one."""
    return list(module.members) if isinstance(module, Ensemble) else [module]
