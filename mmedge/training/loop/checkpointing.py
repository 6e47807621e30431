"""Gradient checkpointing: what a block computes inside is computed again on the way back, and not held (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmedge.errors import UsageError

_ROWS = (nn.Sequential, nn.ModuleList)


@contextmanager
def checkpointed(module: nn.Module, *, asked: bool) -> Iterator[None]:
    """Meanwhile the blocks of ``module`` hold their inputs alone while it trains, where that is ``asked`` for.

    The weights that it is left with are the same. Raises UsageError where it has no blocks.
    """
    found = blocks(module) if asked else []
    if asked and not found:
        raise UsageError(
            "the network has no blocks one after another (nn.Sequential, nn.ModuleList) that could be computed again",
            where="train.checkpointing",
            todo="leave it out",
        )
    for block in found:
        block.forward = _again(block, block.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in found:
            del block.forward  # the class's own is seen again


def blocks(module: nn.Module) -> list[nn.Module]:
    """The parts of rows of modules that have parts and weights of their own, the innermost such rows."""
    found = []
    for child in module.children():
        inner = list(child.children())
        nested = isinstance(child, _ROWS) and any(list(part.children()) for part in inner)
        if isinstance(module, _ROWS) and inner and not nested and any(True for _ in child.parameters()):
            found.append(child)
        else:
            found += blocks(child)
    return found


def _again(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        # What is lent to it for one call (``functional_call``) is gone on the way back, and its own would be computed with.
        lent = not all(isinstance(weight, nn.Parameter) for weight in block.parameters())
        if lent or not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        contexts: Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]
        contexts = lambda: (nullcontext(), _counted_once(block))  # noqa: E731
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return call


@contextmanager
def _counted_once(block: nn.Module) -> Iterator[None]:
    """Batch norms normalise by their batch, and its statistics are not added to theirs a second time."""
    norms = [part for part in block.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    seen = [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, seen):
            norm.momentum, norm.num_batches_tracked = momentum, count
