"""Heads of an attention of the user's own: guessed by the widths it multiplies, and proved by what is left without one.

A forward may read the number of heads off the shapes (``view(b, n, -1, d)``) or keep it as an attribute, which then has
to change with the layers. Nothing is believed: without the first head the model must give what it gives with that head silenced.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmedge.contract import Contract
from mmedge.graph.trace import noise
from mmedge.models.dependencies import dependencies

# The products that an attention is made of, by their names in torch.
_PRODUCTS = ("scaled_dot_product_attention", "matmul", "__matmul__", "bmm", "einsum", "baddbmm")
_TOLERANCE = 1e-4
# So many numbers of an attention may change with its heads.
_NUMBERS = 3


@dataclass(frozen=True)
class Heads:
    """``units``: int64 [heads, channels of each]; ``counts``: (owner, attribute, how much of it a head is)."""

    units: Tensor
    counts: tuple[tuple[str, str, int], ...]


class OwnAttention:
    """The attentions of one model. What a forward does with its heads is asked once for layers of one class and size."""

    def __init__(self, module: nn.Module, contract: Contract) -> None:
        self._module, self._contract = module, contract
        self._widths: set[int] | None = None
        self._known: dict[Any, Heads | None] = {}

    def of(self, root: str, members: Any, graph: Any, names: Mapping[Any, str]) -> Heads | None:
        """The heads of torch-pruning's group ``members``, whose root has the name ``root``; None where none can be proved."""
        if self._widths is None:
            self._widths = _multiplied_widths(self._module, self._contract)
        owner, _, own = root.rpartition(".")
        attention = self._module.get_submodule(owner)
        simple = [item for item in vars(attention).items() if type(item[1]) in (bool, int, float, str)]
        key = (type(attention), own, len(members[0].idxs), *simple)
        if key not in self._known:
            self._known[key] = _heads_of(self._module, self._contract, root, members, graph, names, self._widths)
        known = self._known[key]
        return known and Heads(known.units, tuple((owner, attribute, each) for _, attribute, each in known.counts))


def _multiplied_widths(module: nn.Module, contract: Contract) -> set[int]:
    """The last dimensions of what is multiplied batch by batch: the width of a head is one of them."""
    widths: set[int] = set()

    class Recorded(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__name__", "") in _PRODUCTS:
                widths.update(x.shape[-1] for x in args if isinstance(x, Tensor) and x.dim() > 2)
            return func(*args, **(kwargs or {}))

    with Recorded(), torch.no_grad():
        module.eval()(**noise(contract))
    return widths


def _heads_of(
    module: nn.Module, contract: Contract, root: str, members: Any, graph: Any, names: Mapping[Any, str], widths:
    set[int]
) -> Heads | None:  # fmt: skip
    readers = [item for item in members if _narrows_input(item) and item.dep.target.module in names]
    owner = root.rpartition(".")[0]
    if not readers or not owner:
        return None
    total, inner = len(members[0].idxs), len(readers[0].idxs)
    if total % inner:
        return None
    for width in sorted(widths):
        heads = inner // width
        if width < 2 or heads < 2 or inner % width:
            continue
        # One projection, or query, key and value in one.
        units = torch.arange(total).reshape(total // inner, heads, width).transpose(0, 1).reshape(heads, -1)
        for counts in _countings(module.get_submodule(owner), owner, heads, width):
            if _proved(module, contract, root, units, counts, graph, names):
                return Heads(units, counts)
    return None


def _countings(owner: nn.Module, name: str, heads: int, width: int) -> list[tuple[tuple[str, str, int], ...]]:
    """Which of the owner's own numbers may have to change, fewest first: of those that are the heads', or all their width."""
    numbers = {key: value for key, value in vars(owner).items() if type(value) is int}
    found = [(name, key, 1) for key, value in numbers.items() if value == heads]
    found += [(name, key, width) for key, value in numbers.items() if value == heads * width]
    return [each for size in range(min(len(found), _NUMBERS) + 1) for each in combinations(found, size)]


def _proved(
    module: nn.Module, contract: Contract, root: str, units: Tensor, counts: Sequence[tuple[str, str, int]],
    graph: Any, names: Mapping[Any, str],
) -> bool:  # fmt: skip
    """Whether the model without the first head gives what it gives with that head silenced."""
    silenced, without = copy.deepcopy(module), copy.deepcopy(module)
    channels = units[0].tolist()
    inputs = noise(contract)
    try:
        for item in _group(graph, module.get_submodule(root), channels):
            if _narrows_input(item) and item.dep.target.module in names:
                layer: Any = silenced.get_submodule(names[item.dep.target.module])
                with torch.no_grad():
                    layer.weight[:, item.idxs] = 0
        _group(dependencies(without, contract), without.get_submodule(root), channels).prune()
        for owner, key, each in counts:
            setattr(without.get_submodule(owner), key, each * (len(units) - 1))
        with torch.no_grad():
            before, expected, actual = (_outputs(each, contract, inputs) for each in (module, silenced, without))
    except Exception:  # a guess may break whatever a forward of the user's own relies on
        return False
    scale = float(expected.abs().max()) or 1.0
    alike = [bool(torch.allclose(expected, other, rtol=0, atol=_TOLERANCE * scale)) for other in (before, actual)]
    return alike == [False, True]  # a head that says nothing proves nothing


def _outputs(module: nn.Module, contract: Contract, inputs: Mapping[str, Tensor]) -> Tensor:
    """The outputs of all heads beside each other."""
    outputs = module.eval()(**inputs)
    return torch.cat([outputs[head] for head in contract.heads], dim=1)


def _group(graph: Any, layer: nn.Module, channels: list[int]) -> Any:
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, channels)


def _narrows_input(item: Any) -> bool:
    return bool(item.dep.handler.__name__ == "prune_in_channels")
