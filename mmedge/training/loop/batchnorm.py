"""Batch norm over a batch that is spread over processes: the statistics of the whole batch, as one process would have them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from mmedge.errors import UsageError
from mmedge.recipe import Train
from mmedge.training.loop import processes

Norm = nn.modules.batchnorm._BatchNorm


def names(parts: nn.Module) -> list[str]:
    """The batch norms of ``parts``."""
    return [name for name, layer in parts.named_modules() if isinstance(layer, Norm)]


def check(parts: nn.Module, batch: int, train: Train) -> None:
    """Raise UsageError where a part of a batch would be empty, or batch norm would see one sample, which has no variance."""
    number, norms = train.accumulate * processes.count(), names(parts)
    if batch < number or (norms and batch // train.accumulate < 2):
        layer = f", and batch norm ({norms[0].partition('.')[2]}) needs two" if norms else ""
        raise UsageError(
            f"a batch of {batch} samples in {number} parts leaves {batch // number} a part{layer}",
            where="train.batch_size, train.accumulate",
            todo="give more training samples, a larger batch or fewer parts",
        )


@contextmanager
def synchronised(parts: nn.Module) -> Iterator[None]:
    """Within the block every batch norm of ``parts`` takes its statistics over all processes; on CPU as on GPU.

    torch's SyncBatchNorm is another class of module and runs on GPUs only; this changes the forward pass of the modules
    that are there, and gives it back.
    """
    norms = [m for m in parts.modules() if isinstance(m, Norm)] if processes.count() > 1 else []
    for norm in norms:
        norm.forward = MethodType(_forward, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


class _Summed(torch.autograd.Function):
    """The sum over the processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.clone()
        torch.distributed.all_reduce(gradient)
        return gradient


def _forward(norm: Any, x: Tensor) -> Tensor:
    """Ioffe & Szegedy 2015 over the samples of all processes. ``x``: float [batch, channels, ...]."""
    if not norm.training:
        return type(norm).forward(norm, x)
    values, dims = x.float(), [dim for dim in range(x.dim()) if dim != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    own = values.new_tensor([values.numel() / values.shape[1]])
    sums = _Summed.apply(torch.cat([values.sum(dims), own]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = values - mean.view(shape)
    variance = _Summed.apply(centred.square().sum(dims)) / count
    if norm.track_running_stats:
        with torch.no_grad():
            if norm.num_batches_tracked is not None:  # as it is where a checkpointed block computes again
                norm.num_batches_tracked += 1
            momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked or 1)
            norm.running_mean.lerp_(mean, momentum)
            norm.running_var.lerp_(variance * count / (count - 1), momentum)
    out = centred * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.affine:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    return out.to(x.dtype)
