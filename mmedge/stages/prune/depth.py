"""Whole blocks that go: those whose absence changes the outputs on validation least, of each stack a share."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from mmedge.graph.trace import example
from mmedge.measure.budget import SplitOutputs, split_outputs
from mmedge.measure.quality import graph_predictor, module_run
from mmedge.models import load
from mmedge.models.skipped import skip, stacks
from mmedge.stages.prune.branches import branch_of, modalities_reaching
from mmedge.stages.prune.work import PruneWork

# Validation samples that influence is measured on.
_ROWS = 200
# The influence of a block without which the network does not run.
_NEVER = 1e30


def shallower(work: PruneWork, module: nn.Module) -> list[Any]:
    """Take up to the share ``prune.depth`` of each stack's blocks out of ``module``, in place; the pruning history of it.

    One at a time, each time the one without which the outputs change least, whole and with every subset of modalities, as a
    share of their power. Source: Gromov et al. 2024, "The unreasonable ineffectiveness of the deeper layers", with the
    outputs themselves in place of the angle between layers.
    """
    validation = work.validation
    few = validation.taken(np.linspace(0, len(validation) - 1, min(len(validation), _ROWS)).astype(np.int64))
    all_stacks = stacks(module, example(work.contract, learning=True))
    free = {
        name: {b: w for b, w in blocks.items() if not _stays(b, work.config.ignore)}
        for name, blocks in all_stacks.items()
    }
    shares = _largest_shares(work, module, all_stacks)
    left = {name: min(int(len(blocks) * shares[name]), len(free[name])) for name, blocks in all_stacks.items()}
    known = {name: blocks for name, blocks in free.items() if left[name]}

    def outputs(tried: nn.Module) -> SplitOutputs:
        return split_outputs(work.contract, few, graph_predictor(module_run(tried), work.contract, few))

    whole, gone = outputs(module), dict[str, bool]()

    def influence(block: str, wrapped: bool) -> float:
        trial = copy.deepcopy(module)
        skip(trial, {block: wrapped})
        try:
            found = _distance(whole, outputs(trial))
            return found if math.isfinite(found) else _NEVER
        except Exception:  # a forward may read what the block has, as nn.TransformerEncoder does of its first layer
            return _NEVER

    total = sum(left.values())
    while any(left.values()):
        work.context.progress.step("influence of the blocks", len(gone), total, "blocks removed")
        open_ = {(name, block): wrapped for name, blocks in known.items() if left[name]
                 for block, wrapped in blocks.items() if block not in gone}  # fmt: skip
        measured = {
            place: work.remembered("influence", [place[1], *gone], float, partial(influence, place[1], wrapped))
            for place, wrapped in open_.items()
        }
        name, block = min(measured, key=measured.__getitem__)
        if measured[name, block] >= _NEVER:
            work.refused.update({block: "the network does not run without it" for _, block in measured})
            break
        gone[block] = open_[name, block]
        skip(module, {block: gone[block]})
        left[name] -= 1
    return [[load.SKIP, block, wrapped] for block, wrapped in gone.items()]


def _largest_shares(work: PruneWork, module: nn.Module, found: Iterable[str]) -> dict[str, float]:
    """{stack: the share of its blocks that may go}: ``prune.depth``, or less where ``prune.branches`` lets less of its branch go."""
    config, contract = work.config, work.contract
    if not config.branches:
        return dict.fromkeys(found, config.depth)
    reached = modalities_reaching(module, contract)
    layers = {stack: [name for name in reached if name.startswith(f"{stack}.")] for stack in found}
    branches = {stack: branch_of(inside, reached, contract, stack) for stack, inside in layers.items()}
    return {stack: min(config.depth, config.branches.get(branch, 1.0)) for stack, branch in branches.items()}


def _stays(block: str, ignored: Sequence[str]) -> bool:
    """Whether a layer of the block, or it, is one that ``prune.ignore`` names."""
    places = (f"{block}.", f"{block.removeprefix('inner.')}.")
    return any(f"{name}.".startswith(places) for name in ignored)


def _distance(before: SplitOutputs, after: SplitOutputs) -> float:
    """The power of the change of all outputs over theirs."""
    pairs = [(x, after[subset][1][head]) for subset, (_, heads) in before.items() for head, x in heads.items()]
    changed = sum(float(np.square(a - b).sum()) for a, b in pairs)
    return changed / max(sum(float(np.square(a).sum()) for a, _ in pairs), 1e-12)
