"""Recurrent layers while a model is traced: as one operation, and not as the steps that some of them are unrolled to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

RECURRENT = (nn.GRU, nn.LSTM, nn.RNN)


def width(layer: nn.RNNBase) -> int:
    """The channels of a recurrent layer's output."""
    return (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)


@contextmanager
def in_one_piece(module: nn.Module) -> Iterator[None]:
    """Inside, recurrent layers give zeros of the right shape, whose only origin is their input."""
    layers = [layer for layer in module.modules() if isinstance(layer, RECURRENT)]
    for layer in layers:
        layer.forward = _standing_in(layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _standing_in(layer: nn.RNNBase) -> Any:
    real = layer.forward

    def forward(x: Any, *state: Any) -> Any:
        if not isinstance(x, Tensor):  # packed sequences
            return real(x, *state)
        out = _Opaque.apply(x, width(layer))
        last = out.select(-2 if layer.batch_first or x.dim() == 2 else 0, -1)[
            ..., : layer.proj_size or layer.hidden_size
        ]
        hidden = last.expand(layer.num_layers * (2 if layer.bidirectional else 1), *last.shape)
        if not isinstance(layer, nn.LSTM):
            return out, hidden
        return out, (hidden, hidden.new_zeros(*hidden.shape[:-1], layer.hidden_size) + hidden.mean(-1, keepdim=True))

    return forward


class _Opaque(torch.autograd.Function):
    """Zeros [*, width] of x [*, channels]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:  # type: ignore[override]
        ctx.shape = x.shape
        return x.new_zeros(*x.shape[:-1], size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return gradient.new_zeros(ctx.shape), None
