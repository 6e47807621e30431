"""A network in parts: each process holds a part of every weight, of its gradient and of what the optimizer knows of it.

Fully sharded data parallel training (Zhao et al. 2023, "PyTorch FSDP") by torch's ``fully_shard``, block after block: a block's
weights are brought together when it computes, and let go of behind it. For networks that do not fit one device. What gathers a
whole tensor is called by all processes, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.models.fusion import FEWEST
from mmedge.training.loop import processes
from mmedge.training.loop.batches import Training
from mmedge.training.loop.checkpointing import blocks
from mmedge.training.loop.device import training_device

# What is told where there is one process.
NOTHING_SHARED = ("'sharded' divides nothing in one process: --devices N starts several",)


def shares(training: Training) -> bool:
    """Whether a training's network is in parts."""
    return training.sharded and processes.count() > 1


def sharded(module: nn.Module) -> nn.Module:
    """``module``, which is on the CPU, with this process's part of its weights alone, on the device that training runs on."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = training_device()
    # There is nothing to divide in these: every process has them.
    single = {weight for weight in module.parameters() if weight.dim() == 0}
    with processes.together():
        mesh = init_device_mesh(device.type, (processes.count(),))
        for part in (*blocks(module), module):
            fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=single)
    for weight in single:
        weight.data = weight.data.to(device)
    return module


@dataclass(frozen=True)
class Pass:
    """Rows that go through a network together. ``kind``: what they have in common; ``rows``: this process's, int64, maybe none;
    ``count``: how many rows the pass is to be of."""

    kind: tuple[bool, ...]
    rows: np.ndarray
    count: int


def in_step(own: Sequence[Pass]) -> list[Pass]:
    """The passes that all processes make of a network in parts, where these are this one's own.

    A pass brings the weights together of all that it runs, so that none may run what another does not: there are as many of a kind in
    each process, in the same order, and of so many rows that a network which looks at their number does the same.
    """
    each, found = processes.each([(one.kind, one.count) for one in own]), []
    for kind in sorted({kind for passes in each for kind, _ in passes}):
        counts = [[count for k, count in passes if k == kind] for passes in each]
        rows = [one.rows for one in own if one.kind == kind]
        for number in range(max(map(len, counts))):
            most = max(count[number] for count in counts if number < len(count))
            mine = rows[number] if number < len(rows) else np.empty(0, np.int64)
            found.append(Pass(kind, mine, max(len(mine), min(most, FEWEST + 1))))
    return found


def in_parts(x: Tensor) -> bool:
    """Whether this process holds a part of a tensor alone."""
    return hasattr(x, "full_tensor")


def whole(x: Tensor, *, everywhere: bool = False) -> Tensor:
    """A tensor with the parts of all processes, on the CPU: in the main one, or ``everywhere``; one that is not in parts as it is.

    The others get an empty one, so that their memory does not hold what they do not write.
    """
    if not in_parts(x):
        return x
    with processes.together():
        full: Tensor = x.full_tensor()  # type: ignore[attr-defined]
    return full.cpu() if everywhere or processes.is_main() else full.new_empty(0, device="cpu")


def divided(values: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``values``, whole, in parts where the tensors of the same names in ``live`` are."""
    return {name: _like(value, live[name]) if name in live else value for name, value in values.items()}


def _like(value: Tensor, live: Any) -> Tensor:
    if not in_parts(live) or in_parts(value) or value.shape != live.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    # Each process has read the whole: nothing is sent.
    return distribute_tensor(value.to(live.device), live.device_mesh, live.placements, src_data_rank=None)


def clip(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale the gradients, of which some are in parts, so that their norm together is ``most`` at most."""
    held = [p for p in parameters if p.grad is not None]
    groups = [[p for p in held if in_parts(p) is of] for of in (False, True)]
    norms = [nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in groups]
    total = torch.stack([whole(norm, everywhere=True).to(training_device()) for norm in norms]).norm()
    for group in groups:
        nn.utils.clip_grads_with_norm_(group, most, total)


def mean_gradients(parts: nn.Module) -> None:
    """Give what every process has whole the mean of its gradients; those of parts are brought together as they are computed."""
    for weight in parts.parameters():
        if weight.requires_grad and not in_parts(weight):
            own = torch.zeros_like(weight) if weight.grad is None else weight.grad
            weight.grad = processes.total(own) / processes.count()
