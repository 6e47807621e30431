"""What attends to what: the weights of every ``nn.MultiheadAttention`` in a network, on given samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mmedge.measure.pictures import data_uri


def attention_maps(module: nn.Module, inputs: Mapping[str, np.ndarray], present: np.ndarray) -> dict[str, np.ndarray]:
    """{layer: float [n, queries, keys], rows adding up to 1, the mean over heads}; empty where there is no such layer.

    Attention that was taken apart for pruning gives no weights.
    """
    found: dict[str, np.ndarray] = {}
    layers = {name: part for name, part in module.named_modules() if isinstance(part, nn.MultiheadAttention)}

    def wanting(_: nn.Module, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, {**named, "need_weights": True, "average_attn_weights": True}

    hooks = [part.register_forward_pre_hook(wanting, with_kwargs=True) for part in layers.values()]
    for name, part in layers.items():
        hooks.append(
            part.register_forward_hook(
                lambda _, given, output, name=name: found.__setitem__(name, output[1].detach().cpu().numpy())
            )
        )
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it computes a whole layer at once, and no weights
    try:
        with torch.no_grad():
            module(**{name: torch.from_numpy(x) for name, x in inputs.items()}, present=torch.from_numpy(present))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    return found


def map_picture(weights: np.ndarray) -> str:
    """A data URI of float [queries, keys]: a row a query, dark where it attends."""
    return data_uri((255 - 255 * weights / max(float(weights.max()), 1e-12)).round().astype(np.uint8)[..., None])
