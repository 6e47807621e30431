"""A size to keep to: how many parameters a graph of so many bytes has, and whether what was written is as small."""

from __future__ import annotations

from pathlib import Path

from mmedge.gate import COST_EXIT
from mmedge.recipe import Prune
from mmedge.report.schema import MissRecord

# Bytes of a parameter in FP32, and the smallest share of the parameters that is aimed at.
_BYTES, _LEAST = 4, 1e-3


def within(config: Prune, graph: Path, params: int) -> Prune:
    """The section with a budget of parameters of which the parent's ``graph`` would be as small as ``max_size_kb`` says.

    Of a graph's bytes those that are no parameter's are there after the cut, too. ``params``: the parent's.
    """
    if config.max_size_kb is None:
        return config
    other = graph.stat().st_size - _BYTES * params
    share = max(_LEAST, (config.max_size_kb * 1000 - other) / (_BYTES * params))
    smaller = min(share, config.budget.params or 1)
    budget = config.budget.model_copy(update={"params": smaller if smaller < 1 else None})
    return config.model_copy(update={"budget": budget})


def misses(config: Prune, graph: Path, found: list[MissRecord]) -> list[MissRecord]:
    """``found`` with the size of the ``graph`` that was written in place of the parameters that stood for it."""
    if config.max_size_kb is None:
        return found
    stands = "prune.budget.params" if config.budget.params is None else None
    exits = [miss.exit for miss in found if miss.name == stands]
    left = [miss for miss in found if miss.name != stands]
    size_kb = graph.stat().st_size / 1000
    if size_kb <= config.max_size_kb:
        return left
    exit_ = min(exits, default=COST_EXIT)  # what accuracy forbids comes first
    return [*left, MissRecord(name="prune.max_size_kb", limit=config.max_size_kb, value=size_kb, exit=exit_)]
