"""2:4 sparsity: half of the weights are zero, in a pattern that GPUs from Ampere on skip."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmedge.report.pruning import AttemptRecord
from mmedge.stages.prune.attempts import SPARSE, Kept, Narrowed, judged
from mmedge.stages.prune.groups import left_alone
from mmedge.stages.prune.work import PruneWork, Scores

# A layer of fewer weights stays as it is.
WORTH = 1024


def masks(module: nn.Module, ignore: Sequence[str]) -> dict[str, Tensor]:
    """{parameter: which of its weights stay}: of each four along a layer's inputs the two that are largest.

    Layers stay as they are that ``ignore`` names, convolutions in groups, those whose inputs no four divides, and those that
    make their weights of other parameters (weight_norm), in which no zero could be held. Source: Mishra et al. 2021,
    "Accelerating sparse deep neural networks".
    """
    found, stay = {}, left_alone(module, ignore)
    held = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, layer in module.named_modules():
        plain = isinstance(layer, nn.Linear) or (isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.groups == 1)
        if not plain or name in stay or f"{name}.weight" not in held:
            continue
        weight: Any = layer.weight
        if weight.shape[1] % 4 == 0 and weight.numel() >= WORTH:
            found[f"{name}.weight"] = _largest(weight.detach())
    return found


def _largest(weight: Tensor) -> Tensor:
    fours = weight.abs().movedim(1, -1).unflatten(-1, (-1, 4))
    kept = torch.zeros_like(fours, dtype=torch.bool).scatter(-1, fours.topk(2).indices, value=True)
    return kept.flatten(-2).movedim(-1, 1)


def sparser(
    work: PruneWork, whole: Narrowed, rows: list[AttemptRecord], kept: Kept | None, before: Scores
) -> tuple[list[AttemptRecord], Kept | None]:
    """The rows with one for the network that was kept, else the ``whole`` one, with half of its weights zero; what is kept then.

    It is recovered with the zeros held. No backend on this machine computes them faster, so that its costs are those of the
    network that it is made of.
    """
    base, row = kept or (whole, None)
    module = copy.deepcopy(base.module)
    found = masks(module, work.config.ignore)
    if not found:
        return rows, kept
    as_made = {"step": len(rows) + 1, "passed": False, "why": "", "zeros": _zeros(module, found)}
    same = {name: getattr(row, name) for name in ("ratios", "predicted", "in_budget", "left", "latency_ci95", "faster")
            } if row else _costs_of(work, module)  # fmt: skip
    fitted = work.recovered(module, work.config.train, "recovery-sparse", "recovering under 2:4 zeros", held=found)
    made = judged(work, module, AttemptRecord(**same, **as_made), SPARSE, before)
    work.context.progress.say(f"prune: {made.why}")
    taken = (Narrowed(module, base.history, fitted), made)
    return [*rows, made], taken if made.passed else kept


def _zeros(module: nn.Module, found: Mapping[str, Tensor]) -> float:
    """The share of all parameters that the masks make zero."""
    total = sum(parameter.numel() for parameter in module.parameters())
    return sum(int((~mask).sum()) for mask in found.values()) / total


def _costs_of(work: PruneWork, module: nn.Module) -> dict[str, Any]:
    left = {**work.shares(module), "latency": 1.0}
    return {
        "ratios": {},
        "predicted": {},
        "in_budget": False,
        "left": left,
        "latency_ci95": (1.0, 1.0),
        "faster": False,
    }
