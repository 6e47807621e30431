"""How weights move: the optimizer of a recipe, its learning rate at each step, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mmedge.recipe import Train
from mmedge.training.loop.sharding import divided, in_parts


def optimizer_of(parts: nn.Module, train: Train, rates: Mapping[str, float] | None = None) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), or SGD with momentum, over the parameters of ``parts`` that are trained.

    ``rates``: {parameter: what its learning rate is multiplied by}, where it is not 1.
    """
    groups = _decay_groups(parts, train.weight_decay, rates or {})
    # One kernel over all parameters: for a small network on a CPU a loop over them costs as much as its gradients.
    fused = all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda") and not in_parts(p)
        for g in groups
        for p in g["params"]
    )
    if train.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=train.learning_rate, momentum=train.momentum, nesterov=train.nesterov, fused=fused
        )
    return torch.optim.AdamW(groups, lr=train.learning_rate, fused=fused)


def _decay_groups(parts: nn.Module, weight_decay: float, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Weight decay is for matrices and kernels; biases, norms and learned vectors are left alone."""
    trained = [(p, rates.get(name, 1.0)) for name, p in parts.named_parameters() if p.requires_grad]
    groups = []
    for rate in sorted({1.0, *(rate for _, rate in trained)}, reverse=True):
        own = [p for p, of in trained if of == rate]
        for kind in sorted({in_parts(p) for p in own} or {False}):  # one kernel takes no two of them
            alike = [p for p in own if in_parts(p) is kind]
            groups += [
                {"params": [p for p in alike if p.dim() > 1], "weight_decay": weight_decay, "rate": rate},
                {"params": [p for p in alike if p.dim() <= 1], "weight_decay": 0.0, "rate": rate},
            ]
    return groups


def set_rate(optimizer: torch.optim.Optimizer, train: Train, step: int, total: int) -> float:
    """Set and return the learning rate of one step of ``total``: linear warm-up, then a cosine to zero.

    Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", without the restarts.
    """
    rising = max(1, round(total * train.warmup))
    if step < rising:
        share = (step + 1) / rising
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
    for group in optimizer.param_groups:
        group["lr"] = train.learning_rate * share * group.get("rate", 1.0)
    return train.learning_rate * share


class Average:
    """The running average of a module's weights and buffers: Polyak & Juditsky 1992, in the exponential form of today.

    The decay rises from 2/11 to ``decay`` as (1 + n) / (10 + n) over the updates n, so that the first weights are soon
    forgotten. Integer buffers are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay, self.updates = module, decay, 0
        live = module.state_dict()
        self.values = {name: value.detach().clone() for name, value in live.items()}
        # The tensors of a state_dict share the module's memory: what the optimizer changes shows in them.
        self._pairs, self._counts = self._paired(live)
        self._in_parts = any(map(in_parts, live.values()))

    def _paired(
        self, live: Mapping[str, Tensor]
    ) -> tuple[list[tuple[list[Tensor], list[Tensor]]], list[tuple[Tensor, Tensor]]]:
        """(the average's tensors and the module's, of one kind each; the same one by one of those that are counts)."""
        floating = [name for name, value in live.items() if value.is_floating_point()]
        kinds = ([n for n in floating if in_parts(live[n]) is kind] for kind in (False, True))
        pairs = [([self.values[n] for n in names], [live[n] for n in names]) for names in kinds if names]
        return pairs, [(self.values[n], live[n]) for n in live if n not in floating]

    def update(self) -> None:
        """Take the module's present weights in."""
        self.updates += 1
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        if self._in_parts:  # whose memory is not the same for good
            self._pairs, self._counts = self._paired(self._module.state_dict())
        for averaged, live in self._pairs:
            get_ema_multi_avg_fn(decay)(averaged, live, self.updates)
        for mine, theirs in self._counts:
            mine.copy_(theirs)

    def load(self, values: dict[str, Tensor], updates: int) -> None:
        """Go on from a stored average."""
        for name, value in divided(values, self.values).items():
            self.values[name].copy_(value)
        self.updates = updates

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The module has the average's weights within the block, and its own again behind it."""
        own = {name: value.detach().clone() for name, value in self._module.state_dict().items()}
        self._module.load_state_dict(self.values)
        try:
            yield
        finally:
            self._module.load_state_dict(own)
