"""Large linear layers and embeddings in two factors of lower rank, of those whose outputs need no more."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.models import load
from mmedge.models.factored import factor
from mmedge.stages.prune.groups import fault_of, left_alone, together
from mmedge.stages.prune.work import PruneWork

# A layer of fewer weights stays whole without a word; ranks are multiples of the second figure, as kernels like widths to be.
_WORTH, _BLOCK = 4096, 8
# The share of the power of a layer's outputs that its factors must keep before they are recovered.
_LEAST = 0.8
# Training batches that outputs are looked at on, and the most of them: their table of products grows with the square.
_STEPS, _WIDEST = 8, 4096


@dataclass(frozen=True)
class Factors:
    """The weights of a layer's two factors: [rank, inputs], of an embedding [rows, rank], and [outputs, rank]."""

    name: str
    first: Tensor
    second: Tensor

    @property
    def rank(self) -> int:
        return self.second.shape[1]


@torch.no_grad()
def factored(work: PruneWork, module: nn.Module) -> tuple[list[Any], dict[str, str]]:
    """Put two factors in the place of layers of ``module``, in place; (its pruning history, {layer: why it stays whole}).

    Each has ``prune.rank`` of the weights that it had. Of all such factors these keep most of the power of what the layer
    gives on training samples: the outputs are led through their principal directions. Source: Chen et al. 2021, "DRONE:
    data-aware low-rank compression for large NLP models"; of outputs too many to look at, the weights' own directions (SVD).
    """
    wanted, left = _wanted(work, module)
    products = _products(work, module, [name for name in wanted if _outputs(module.get_submodule(name)) <= _WIDEST])
    found = []
    for name, rank in wanted.items():
        layer: Any = module.get_submodule(name)
        if name not in products and _outputs(layer) <= _WIDEST:
            left[name] = "the network does not call it as a layer"
            continue
        factors, kept = factors_of(name, layer, rank, products.get(name))
        if kept < _LEAST:
            left[name] = f"two factors of rank {rank} would keep {kept:.0%} of the power of what it gives"
        else:
            found.append(factors)
    working, broken = together(found, partial(_fault, module, work.contract))
    left |= {factors.name: f"the network does not run with two layers in its place: {why}" for factors, why in broken}
    _put(module, working)
    return [[load.FACTORED, factors.name, factors.rank] for factors in working], left


def factors_of(name: str, layer: Any, rank: int, products: Tensor | None) -> tuple[Factors, float]:
    """(The factors, the share of power that they keep); ``products``: the sum of y yT over outputs y without the bias, [outputs, outputs]."""
    weight = layer.weight.detach()
    is_table = isinstance(layer, nn.Embedding)
    rows = weight.T if is_table else weight  # [outputs, inputs]
    if products is not None:
        powers, directions = torch.linalg.eigh(products.double())
        second = directions[:, -rank:].flip(1).to(weight.dtype)
        first = second.T @ rows
    else:
        powers, directions = torch.linalg.eigh((rows.T @ rows).double())
        first = directions[:, -rank:].flip(1).T.to(weight.dtype)
        second = rows @ first.T
    powers = powers.clamp(min=0)
    kept = float(powers[-rank:].sum() / powers.sum().clamp(min=1e-30))
    return Factors(name, (first.T if is_table else first).contiguous(), second.contiguous()), kept


def _wanted(work: PruneWork, module: nn.Module) -> tuple[dict[str, int], dict[str, str]]:
    """({layer: the rank that its factors have}, {layer: why it stays whole}) of the large layers."""
    config = work.config
    assert config.rank is not None
    smaller = config.budget.params is not None or work.context.recipe.prefer == "size"
    shared = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    wanted, left, stay = dict[str, int](), dict[str, str](), left_alone(module, config.ignore)
    for name, layer in module.named_modules():
        if type(layer) not in (nn.Linear, nn.Embedding) or name in stay:
            continue
        weight: Tensor = layer.weight  # type: ignore[assignment]
        rank = int(config.rank * weight.numel() / sum(weight.shape)) // _BLOCK * _BLOCK
        if weight.numel() < _WORTH:
            continue
        if isinstance(layer, nn.Embedding) and not smaller:
            left[name] = (
                "a look-up multiplies nothing, which factors would, and no budget of parameters or size is given"
            )
        elif shared[id(weight)] > 1:
            left[name] = "its weights are another layer's, too"
        elif rank < _BLOCK:
            left[name] = f"factors of a rank below {_BLOCK} are not made"
        elif min(weight.shape) > _WIDEST:
            left[name] = f"it has more than {_WIDEST} inputs and outputs"
        else:
            wanted[name] = rank
    return wanted, left


def _outputs(layer: Any) -> int:
    return layer.embedding_dim if isinstance(layer, nn.Embedding) else layer.out_features


def _products(work: PruneWork, module: nn.Module, names: Sequence[str]) -> Mapping[str, Tensor]:
    """{layer: the sum of y yT over what it gives without its bias, [outputs, outputs]} on some training batches."""
    found: dict[str, Tensor] = {}
    student = copy.deepcopy(module).eval()

    def look(name: str) -> Any:
        def hook(layer: Any, _: Any, output: Tensor) -> None:
            bias = getattr(layer, "bias", None)
            y = (output if bias is None else output - bias).detach().reshape(-1, output.shape[-1]).float()
            found[name] = found[name] + y.T @ y if name in found else y.T @ y

        return hook

    for name in names:
        student.get_submodule(name).register_forward_hook(look(name))
    for number, _ in enumerate(work.losses_over(student, _STEPS) if names else ()):
        work.context.progress.step("what layers give", number, _STEPS, "training batches")
    return found


def _put(module: nn.Module, found: Sequence[Factors]) -> None:
    biases = {each.name: getattr(module.get_submodule(each.name), "bias", None) for each in found}
    pairs = factor(module, {each.name: each.rank for each in found})
    for each in found:
        first, second = pairs[each.name]
        first.weight.copy_(each.first)  # type: ignore[operator,union-attr]
        second.weight.copy_(each.second)  # type: ignore[operator,union-attr]
        bias = biases[each.name]
        if bias is not None:
            second.bias.copy_(bias)  # type: ignore[operator,union-attr]


def _fault(module: nn.Module, contract: Contract, found: Sequence[Factors]) -> str | None:
    """What goes wrong with these layers in factors; None where nothing does."""
    return fault_of(module, contract, lambda trial: _put(trial, found))
