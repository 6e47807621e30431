"""Low-rank adapters (Hu et al. 2022, "LoRA: low-rank adaptation of large language models"): trained beside linear layers, then merged."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from mmedge.errors import UsageError, did_you_mean
from mmedge.recipe.transfer import Lora


class Adapted(nn.Module):
    """A frozen linear layer and the product of two small matrices, which is zero at first. Same call, same shapes."""

    def __init__(self, base: nn.Linear, config: Lora) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), config.alpha / config.rank
        self.down = nn.Linear(base.in_features, config.rank, bias=False)
        self.up = nn.Linear(config.rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x)) * self.scale
        return out

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The one linear layer that gives the same."""
        self.base.weight += (self.up.weight @ self.down.weight) * self.scale
        return self.base


def adapt(bodies: Collection[nn.Module], config: Lora) -> None:
    """Put ``Adapted`` in place of the named linear layers of ``bodies``. Raises UsageError for a name that no layer has."""
    found = {name: body for body in bodies for name, layer in body.named_modules() if isinstance(layer, nn.Linear)}
    for wanted in config.layers:
        if not any(_named(name, wanted) for name in found):
            known = sorted({name.rpartition(".")[2] for name in found})
            raise UsageError(
                f"no linear layer of the pretrained encoders is called {wanted!r}{did_you_mean(wanted, known)}",
                where="train.lora.layers",
                todo=f"there are {', '.join(known)}" if known else _instead(bodies),
            )
    for body in bodies:
        for name, layer in list(body.named_modules()):
            if isinstance(layer, nn.Linear) and any(_named(name, wanted) for wanted in config.layers):
                _put(body, name, Adapted(layer, config))


def _instead(bodies: Collection[nn.Module]) -> str:
    if bodies:
        return "those that are frozen have no linear layers (torch.nn.Linear): leave train.lora out, and thaw them"
    return "it goes beside pretrained encoders (model.encoders) that train.freeze keeps"


def merge(module: nn.Module) -> None:
    """Put one linear layer in place of each ``Adapted`` in ``module``."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, Adapted):
            _put(module, name, layer.merged().requires_grad_(True))


def _named(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def _put(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, layer)
