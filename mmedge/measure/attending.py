"""What attends to what: the attention weights of any network on given samples, by whatever function it computes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmedge.measure.pictures import data_uri
from mmedge.measure.places import layers_of

_SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)


class _Watch(TorchFunctionMode):
    """Sees torch's attention functions, and every softmax over the last axis of scores [samples (* heads), ..., queries, keys].

    ``layers``: the names of the layers that are running, the outermost first.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.samples, self.layers, self.found = samples, list[str](), dict[str, np.ndarray]()
        self._calls = Counter[str]()

    def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        named = dict(named or {})
        if function is F.multi_head_attention_forward:
            output, weights = function(*given, **{**named, "need_weights": True, "average_attn_weights": True})
            self._keep(weights)
            return output, weights
        output = function(*given, **named)
        if function is F.scaled_dot_product_attention:
            self._keep(_weights(*given, **named))
        elif function in _SOFTMAX and output.dim() > 2:
            axis = named.get("dim", given[1] if len(given) > 1 else None)
            if axis in (-1, output.dim() - 1):
                self._keep(output)
        return output

    def _keep(self, weights: Tensor) -> None:
        """The mean over all that stands between the samples and the queries."""
        count, (queries, keys) = len(weights) // self.samples, weights.shape[-2:]
        if len(weights) != count * self.samples or not count or keys < 2:
            return
        name = self.layers[-1] if self.layers else "the network"
        self._calls[name] += 1
        name += f" ({self._calls[name]})" if self._calls[name] > 1 else ""
        whole = weights.detach().float().reshape(self.samples, -1, queries, keys)
        self.found[name] = whole.mean(dim=1).cpu().numpy()


def _weights(query: Tensor, key: Tensor, *given: Any, **named: Any) -> Tensor:
    """What ``scaled_dot_product_attention``, called so, weighs values by: [..., queries, keys]."""
    named = dict(zip(("value", "attn_mask", "dropout_p", "is_causal"), given)) | named
    if named.get("enable_gqa"):
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.transpose(-2, -1) * (named.get("scale") or 1 / math.sqrt(query.shape[-1]))
    mask = named.get("attn_mask")
    if named.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).nan_to_num()  # a query that may see nothing


def attention_maps(module: nn.Module, inputs: Mapping[str, np.ndarray], present: np.ndarray) -> dict[str, np.ndarray]:
    """{layer: float [n, queries, keys], rows adding up to 1, the mean over heads}; empty where nothing attends.

    Of ``nn.MultiheadAttention``, of ``scaled_dot_product_attention`` (Hugging Face's networks) and of attention that a
    network's own code writes out with a softmax. A layer that attends twice has its second map as ``layer (2)``.
    """
    watch = _Watch(len(present))
    hooks: list[Any] = []
    for name, layer in layers_of(module).items():
        hooks.append(layer.register_forward_pre_hook(lambda _layer, _given, name=name: watch.layers.append(name)))
        hooks.append(layer.register_forward_hook(lambda _layer, _given, _output: watch.layers.pop() and None))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it computes a whole layer at once, and no weights
    try:
        with torch.no_grad(), watch:
            module(**{name: torch.from_numpy(x) for name, x in inputs.items()}, present=torch.from_numpy(present))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    return watch.found


def map_picture(weights: np.ndarray) -> str:
    """A data URI of float [queries, keys]: a row a query, dark where it attends."""
    return data_uri((255 - 255 * weights / max(float(weights.max()), 1e-12)).round().astype(np.uint8)[..., None])
