"""Structured pruning by torch-pruning's dependency graph, for measured latency, with recovery in the one training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmedge.artifact import GRAPH, Artifact
from mmedge.errors import AccuracyGateFailed, MissingDependency, MmedgeError, PeerEnded, UsageError, first_line
from mmedge.measure.blocks import preferred_block
from mmedge.measure.budget import WHOLE, Budget
from mmedge.measure.cost import params
from mmedge.models import load
from mmedge.recipe import Prefer, Prune
from mmedge.report.pruning import AttemptRecord, PruningRecord, ScoreRecord
from mmedge.report.schema import MissRecord
from mmedge.stages.preference import INSTEAD, Costs, best, by_energy
from mmedge.stages.prune import depth, outcome, size
from mmedge.stages.prune.branches import branches_of, largest_ratios
from mmedge.stages.prune.groups import ChannelGroup, groups_of, take_apart
from mmedge.stages.prune.outcome import Recovered
from mmedge.stages.prune.search import CutPlan, by_branch, latency_of, probe, uniform
from mmedge.stages.prune.work import PruneWork, Scores, work_on
from mmedge.stages.results import PruneResult, StageResult
from mmedge.stages.trained import Trained, write_trained, write_unchanged
from mmedge.training.context import Context
from mmedge.training.loop import processes
from mmedge.training.loop.fit import Fitted
from mmedge.training.teaching.taught import handed_on

_GPU_BLOCK = 8
# Where one cut for the whole budget loses too much: what is tried next, as powers of the budget.
_SMALLER = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Narrowed:
    """A network to cut: the parent's, or what a cut made of it. ``history``: of all cuts so far; ``fitted``: its recovery.

    ``groups``: the model's, ranked as it stands, where that is known; ``shallower``: whether whole blocks are gone.
    """

    module: nn.Module
    history: list[Any]
    fitted: Fitted | None = None
    groups: list[ChannelGroup] | None = None
    shallower: bool = False


def prune(parent: Artifact, config: Prune, context: Context) -> PruneResult:
    """Narrow the branches until the budget is met, recover with the teacher, and keep what is faster and as accurate.

    Where nothing is, or nothing can be narrowed, the parent itself is returned, with notes of what was tried.
    """
    try:
        return _pruned(parent, config, context)
    except (UsageError, MissingDependency, PeerEnded, AccuracyGateFailed, OSError, MemoryError):
        raise
    except Exception as error:  # what torch-pruning and torch raise is why nothing is cut, never the run's end
        why = error.what if isinstance(error, MmedgeError) else f"{type(error).__name__}: {first_line(error)}"
        context.progress.say(f"prune: {why}")
        notes = [f"warning: the parent is returned, unpruned: {why}"]
        written, (taught, loss) = write_unchanged(parent, context), handed_on(parent)
        misses = _misses(config, outcome.misses(config, [], None), context)
        return PruneResult.of(written, misses=misses, notes=notes, taught=taught, loss=loss)


def _pruned(parent: Artifact, config: Prune, context: Context) -> PruneResult:
    """What is cut of the network without the blocks that ``prune.depth`` lets go; of the whole one where that is not kept."""
    if not config.depth:
        return _cut(parent, config, context)
    on_miss = "try-next" if config.on_miss == "stop" else config.on_miss  # the whole network is tried yet
    made = _cut(parent, config.model_copy(update={"on_miss": on_miss}), context)
    if made.pruning is None or made.pruning.kept is not None:
        return made
    why = outcome.best_tried(list(made.pruning.attempts)).why
    whole = _cut(parent, config.model_copy(update={"depth": 0.0}), context)
    return whole.model_copy(update={"notes": [*whole.notes, f"all blocks stay: without some, {why}"]})


def _cut(parent: Artifact, config: Prune, context: Context) -> PruneResult:
    if context.recipe.prefer == "size":  # a smaller network is better, however fast
        config = config.model_copy(update={"faster": False})
    asked, module = config, context.rebuild(parent)
    config = size.within(asked, parent.file(GRAPH), params(module))
    work = work_on(parent, module, config, context)
    before = work.judged(module)
    gone = depth.shallower(work, module) if config.depth else []
    history = gone + take_apart(module)
    groups, left = _ranked(work, module)
    branches = branches_of(module, work.contract, groups)
    largest = largest_ratios(config, branches)
    round_to, widths = _rounding(module, work)
    options = probe(work, module, before, branches, largest, round_to) if config.allocation == "branches" else {}

    def planned(goal: dict[str, float]) -> CutPlan:
        if options:
            return by_branch(work, module, branches, options, goal, round_to)
        return uniform(work, module, branches, largest, goal, round_to)

    whole = Narrowed(module, load.history_of(parent) + history, None, groups, shallower=bool(gone))
    rows, kept = _attempts(work, whole, planned, before)
    taken = kept[1] if kept else None
    if taken is None and config.on_miss == "stop" and any(isinstance(row, Recovered) for row in rows):
        raise AccuracyGateFailed(
            f"no cut is inside the budget of accuracy: {outcome.best_tried(rows).why}",
            where="prune.on_miss: stop",
            todo="allow a larger max_drop, add validation samples, or say on_miss: keep-parent",
        )
    pruning = PruningRecord(
        allocation=config.allocation,
        importance=config.importance,
        limits=config.limits,
        round_to=round_to,
        round_to_ms=widths,
        probe_steps=config.probe_steps,
        parent=ScoreRecord(quality=before.quality, subsets=before.subsets),
        branches=outcome.table(branches, options, taken or rows[-1]),
        not_prunable={name.removeprefix("inner."): why for name, why in (left | work.refused).items()},
        attempts=rows,
        kept=rows.index(taken) if taken else None,
    )
    written = _written(kept[0] if kept else None, parent, work)
    notes = outcome.notes(config, rows, taken, taught=work.teacher is not None, round_to=round_to)
    if by_energy(context.recipe.prefer):
        notes += (f"cuts' energy is not measured: {INSTEAD}",)
    if config.depth and not gone:
        notes += (f"no stack has so many blocks that {config.depth:g} of them are one",)
    if gone and taken is not None:
        notes += (f"blocks removed: {', '.join(step[1].removeprefix('inner.') for step in gone)}",)
    notes += (*(work.teacher.notes if work.teacher else ()), *written.notes)
    misses = _misses(asked, outcome.misses(config, rows, taken), context)
    taught, loss = handed_on(parent)
    more = {"pruning": pruning, "misses": misses, "notes": list(notes), "taught": taught, "loss": loss}
    return PruneResult.of(written, **more)


def _misses(config: Prune, found: list[MissRecord], context: Context) -> list[MissRecord]:
    """``found`` and, where a size was asked for, whether what the main process wrote is as small."""
    return processes.of_main(lambda: size.misses(config, context.folder / GRAPH, found))


def _attempts(
    work: PruneWork, whole: Narrowed, planned: Callable[[dict[str, float]], CutPlan], before: Scores
) -> tuple[list[AttemptRecord], tuple[Narrowed, Recovered] | None]:
    """Every cut that was tried, and of those inside the budget the one to keep."""
    config, prefer = work.config, work.context.recipe.prefer
    rows: list[AttemptRecord] = []
    kept: tuple[Narrowed, Recovered] | None = None
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


def _better(
    prefer: Prefer, kept: tuple[Narrowed, Recovered], other: tuple[Narrowed, Recovered]
) -> tuple[Narrowed, Recovered]:
    """Of two cuts that both lose little enough the one to keep."""
    rows = {"kept": kept[1], "other": other[1]}
    costs = {name: Costs(row.left["latency"], row.left["params"], row.quality) for name, row in rows.items()}
    return other if best(prefer, costs) == "other" else kept


def _written(kept: Narrowed | None, parent: Artifact, work: PruneWork) -> StageResult:
    """What was kept as the files of an artifact; the parent's where nothing was."""
    if kept is None or kept.fitted is None:
        return write_unchanged(parent, work.context)
    model = load.section_of(parent)
    return write_trained(Trained(kept.module, work.contract, kept.fitted, model, kept.history), work.context)


def _share(number: int, config: Prune) -> float:
    """The part of the doubt that an attempt may use up: all together are wrong no more often than the confidence says."""
    count = len(_powers(config))
    if config.steps > 1 or count == 1:
        return 1 / count
    return (0.5, 0.25, 0.25)[number]


def _powers(config: Prune) -> list[float]:
    if config.on_miss != "try-next" and config.steps == 1:
        return list(_SMALLER[:1])
    return list(_SMALLER) if config.steps == 1 else [(step + 1) / config.steps for step in range(config.steps)]


def _ranked(work: PruneWork, module: nn.Module) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The groups of ``module`` as it stands, by importance as it stands."""
    torch.manual_seed(work.context.recipe.seed)  # for the importance that is random
    if work.config.importance == "taylor":
        work.fill_gradients(module)
    return groups_of(module, work.contract, work.config)


def _rounding(module: nn.Module, work: PruneWork) -> tuple[int, dict[str, float] | None]:
    """The multiple that widths are kept at, and the times that led to it where it was measured."""
    if work.config.round_to != "auto":
        return work.config.round_to, None
    threads = work.context.recipe.measure.threads

    def measured() -> tuple[int, dict[str, float]]:
        return processes.of_main(lambda: preferred_block(module, work.contract, threads=threads))

    block, widths = work.remembered("block", threads, tuple[int, dict[str, float]], measured)
    return max(block, _GPU_BLOCK if work.context.recipe.export.on_gpu else 1), widths


def _attempt(
    work: PruneWork, base: Narrowed, plan: CutPlan, number: int, before: Scores
) -> tuple[Narrowed, AttemptRecord]:
    """Cut ``base`` down to the plan, recover it where that is worth it, and measure it."""
    config = work.config
    groups = base.groups or _ranked(work, base.module)[0]
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
    why = outcome.not_worth_it(config, row, nothing_cut=not cuts and base.fitted is None and not base.shallower)
    if why:
        return Narrowed(module, base.history), row.model_copy(update={"why": why})
    train, steps = config.train, config.steps
    if number + 1 < steps:
        train = train.model_copy(update={"epochs": max(1, round(train.epochs / steps))})
    task = "recovering after pruning" + (f", step {number + 1}/{steps}" if steps > 1 else "")
    fitted = work.recovered(module, train, f"recovery-{number}", task)
    after = work.judged(module)
    judging = work.context.recipe.judging
    tail = (1 - judging.confidence) * _share(number, config)
    budget = Budget(config.max_drop, config.max_subset_drop, judging.policy, 1 - tail)
    lost = outcome.losses(budget, work.losses(before, after, tail))
    plain = work.losses(before, after, 0.025)[WHOLE]
    recovered = outcome.recovered(row, after, lost, (plain.low, plain.high), config)
    return Narrowed(module, base.history + cuts, fitted), recovered
