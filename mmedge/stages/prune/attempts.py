"""Cuts as they are tried: each made, recovered with the teacher where that is worth it, and measured; the best is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmedge.measure.budget import WHOLE, Budget
from mmedge.recipe import Prefer, Prune
from mmedge.report.pruning import AttemptRecord
from mmedge.stages.preference import Costs, best
from mmedge.stages.prune import outcome
from mmedge.stages.prune.groups import ChannelGroup, groups_of
from mmedge.stages.prune.outcome import Recovered
from mmedge.stages.prune.search import CutPlan, latency_of
from mmedge.stages.prune.work import PruneWork, Scores
from mmedge.training.loop.fit import Fitted

# Where one cut for the whole budget loses too much: what is tried next, as powers of the budget.
_SMALLER = (1.0, 0.5, 0.25)
# The number of the attempt that makes weights zero.
SPARSE = -1
Kept = tuple["Narrowed", Recovered]


@dataclass(frozen=True)
class Narrowed:
    """A network to cut: the parent's, or what a cut made of it. ``history``: of all cuts so far; ``fitted``: its recovery.

    ``groups``: the model's, ranked as it stands, where that is known; ``changed``: whether blocks are gone or layers in factors.
    """

    module: nn.Module
    history: list[Any]
    fitted: Fitted | None = None
    groups: list[ChannelGroup] | None = None
    changed: bool = False


def attempts(
    work: PruneWork, whole: Narrowed, planned: Callable[[dict[str, float]], CutPlan], before: Scores
) -> tuple[list[AttemptRecord], Kept | None]:
    """Every cut that was tried, and of those inside the budget the one to keep."""
    config, prefer = work.config, work.context.recipe.prefer
    rows: list[AttemptRecord] = []
    kept: Kept | None = None
    limits, cuts = config.limits, []
    for number, power in enumerate(_powers(config)):
        plan = planned({name: limit**power for name, limit in limits.items()})
        if config.steps == 1 and plan.keep in cuts:  # smaller by less than a block is the same again
            continue
        cuts.append(plan.keep)
        network, row = _attempt(work, kept[0] if kept and config.steps > 1 else whole, plan, number, before)
        rows.append(row)
        work.context.progress.say(f"prune: {row.why}")
        if isinstance(row, Recovered) and row.passed:
            kept = (network, row) if kept is None or config.steps > 1 else _better(prefer, kept, (network, row))
        # Where the budget is out of reach, a smaller cut is one that is smaller than this one.
        if number == 0 and config.steps == 1:
            limits = {name: max(limit, row.left[name]) for name, limit in limits.items()}
        # One cut ends with the first that passes, or that is no faster, unless smaller ones may lose less; several steps
        # with the first that does not pass.
        every = prefer == "accuracy" and config.steps == 1
        if (row.passed == (config.steps == 1) and not every) or not isinstance(row, Recovered):
            break
    if kept and config.faster and not kept[1].faster:
        kept = None
    return rows, kept


def _better(prefer: Prefer, kept: Kept, other: Kept) -> Kept:
    """Of two cuts that both lose little enough the one to keep."""
    rows = {"kept": kept[1], "other": other[1]}
    costs = {name: Costs(row.left["latency"], row.left["params"], row.quality) for name, row in rows.items()}
    return other if best(prefer, costs) == "other" else kept


def _share(number: int, config: Prune) -> float:
    """The part of the doubt that an attempt may use up: all together are wrong no more often than the confidence says."""
    count, cuts = len(_powers(config)), 0.5 if config.sparsity else 1.0
    if number == SPARSE:
        return 1 - cuts
    if config.steps > 1 or count == 1:
        return cuts / count
    return cuts * (0.5, 0.25, 0.25)[number]


def _powers(config: Prune) -> list[float]:
    if config.on_miss != "try-next" and config.steps == 1:
        return list(_SMALLER[:1])
    return list(_SMALLER) if config.steps == 1 else [(step + 1) / config.steps for step in range(config.steps)]


def ranked(work: PruneWork, module: nn.Module) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The groups of ``module`` as it stands, by importance as it stands."""
    torch.manual_seed(work.context.recipe.seed)  # for the importance that is random
    if work.config.importance == "taylor":
        work.fill_gradients(module)
    return groups_of(module, work.contract, work.config)


def _attempt(
    work: PruneWork, base: Narrowed, plan: CutPlan, number: int, before: Scores
) -> tuple[Narrowed, AttemptRecord]:
    """Cut ``base`` down to the plan, recover it where that is worth it, and measure it."""
    config = work.config
    groups = base.groups or ranked(work, base.module)[0]
    module, cuts = work.narrowed(base.module, groups, plan.keep)
    latency = latency_of(work, module, plan.keep)
    row = AttemptRecord(
        step=number + 1,
        ratios=plan.ratios,
        predicted=plan.predicted,
        in_budget=plan.met,
        left={**work.shares(module), "latency": latency.value},
        latency_ci95=(latency.low, latency.high),
        faster=latency.faster,
        passed=False,
        why="",
    )
    why = outcome.not_worth_it(config, row, nothing_cut=not cuts and base.fitted is None and not base.changed)
    if why:
        return Narrowed(module, base.history), row.model_copy(update={"why": why})
    train, steps = config.train, config.steps
    if number + 1 < steps:
        train = train.model_copy(update={"epochs": max(1, round(train.epochs / steps))})
    task = "recovering after pruning" + (f", step {number + 1}/{steps}" if steps > 1 else "")
    fitted = work.recovered(module, train, f"recovery-{number}", task)
    return Narrowed(module, base.history + cuts, fitted), judged(work, module, row, number, before)


def judged(work: PruneWork, module: nn.Module, row: AttemptRecord, number: int, before: Scores) -> Recovered:
    """The row of attempt ``number`` with what the recovered ``module`` loses against what was ``before``."""
    config, after, judging = work.config, work.judged(module), work.context.recipe.judging
    tail = (1 - judging.confidence) * _share(number, config)
    budget = Budget(config.max_drop, config.max_subset_drop, judging.policy, 1 - tail)
    lost = outcome.losses(budget, work.losses(before, after, tail))
    plain = work.losses(before, after, 0.025)[WHOLE]
    return outcome.recovered(row, after, lost, (plain.low, plain.high), config)
