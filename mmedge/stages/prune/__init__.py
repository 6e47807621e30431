"""Structured pruning by torch-pruning's dependency graph, for measured latency, with recovery in the one training loop."""

from __future__ import annotations

from typing import Any

from torch import nn

from mmedge.artifact import GRAPH, Artifact
from mmedge.errors import AccuracyGateFailed, MissingDependency, MmedgeError, PeerEnded, UsageError, first_line
from mmedge.measure.blocks import preferred_block
from mmedge.measure.cost import params
from mmedge.models import load
from mmedge.recipe import Prune
from mmedge.report.pruning import PruningRecord, ScoreRecord
from mmedge.report.schema import MissRecord
from mmedge.stages.preference import INSTEAD, by_energy
from mmedge.stages.prune import attempts, depth, outcome, rank, size
from mmedge.stages.prune.attempts import Narrowed
from mmedge.stages.prune.branches import branches_of, largest_ratios
from mmedge.stages.prune.groups import take_apart
from mmedge.stages.prune.outcome import Recovered
from mmedge.stages.prune.search import CutPlan, as_it_is, by_branch, probe, uniform
from mmedge.stages.prune.sparse import WORTH, sparser
from mmedge.stages.prune.work import PruneWork, work_on
from mmedge.stages.results import PruneResult, StageResult
from mmedge.stages.trained import Trained, write_trained, write_unchanged
from mmedge.training.context import Context
from mmedge.training.loop import processes
from mmedge.training.teaching.taught import handed_on

_GPU_BLOCK = 8


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
    """What is cut of the network with layers in factors and without blocks; where that is not kept, of one that is changed less."""
    first, *rest = _variants(config)
    on_miss = "try-next" if rest and config.on_miss == "stop" else config.on_miss  # less changed ones are tried yet
    made = _cut(parent, first.model_copy(update={"on_miss": on_miss}), context)
    if not rest or made.pruning is None or made.pruning.kept is not None:
        return made
    why = outcome.best_tried(list(made.pruning.attempts)).why
    stays = "all layers stay whole: in factors" if first.rank else "all blocks stay: without some"
    other = _pruned(parent, rest[0].model_copy(update={"on_miss": config.on_miss}), context)
    return other.model_copy(update={"notes": [*other.notes, f"{stays}, {why}"]})


def _variants(config: Prune) -> list[Prune]:
    """The section, without ``rank``, and without ``depth`` either, as far as they are there."""
    found = [config]
    for name, none in (("rank", None), ("depth", 0.0)):
        if getattr(found[-1], name):
            found.append(found[-1].model_copy(update={name: none}))
    return found


def _cut(parent: Artifact, config: Prune, context: Context) -> PruneResult:
    if context.recipe.prefer == "size":  # a smaller network is better, however fast
        config = config.model_copy(update={"faster": False})
    asked, module = config, context.rebuild(parent)
    config = size.within(asked, parent.file(GRAPH), params(module))
    work = work_on(parent, module, config, context)
    before = work.judged(module)
    gone = depth.shallower(work, module) if config.depth else []
    apart = take_apart(module)
    factors, left = rank.factored(work, module) if config.rank else ([], {})
    groups, narrow = attempts.ranked(work, module)
    branches = branches_of(module, work.contract, groups)
    largest = largest_ratios(config, branches)
    round_to, widths = _rounding(module, work)
    options = probe(work, module, before, branches, largest, round_to) if config.allocation == "branches" else {}

    def planned(goal: dict[str, float]) -> CutPlan:
        plan, uncut = as_it_is(work, module, branches, goal, round_to)
        if plan.met:
            return plan
        if options:
            return by_branch(work, module, branches, options, goal, round_to, uncut)
        return uniform(work, module, branches, largest, goal, round_to)

    history = [*load.history_of(parent), *gone, *apart, *factors]
    whole = Narrowed(module, history, None, groups, changed=bool(gone or factors))
    rows, kept = attempts.attempts(work, whole, planned, before)
    if config.sparsity and (kept or not whole.changed):
        rows, kept = sparser(work, whole, rows, kept, before)
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
        not_prunable={name.removeprefix("inner."): why for name, why in (left | narrow | work.refused).items()},
        attempts=rows,
        kept=rows.index(taken) if taken else None,
    )
    written = _written(kept[0] if kept else None, parent, work)
    notes = outcome.notes(config, rows, taken, taught=work.teacher is not None, round_to=round_to)
    if by_energy(context.recipe.prefer):
        notes += (f"cuts' energy is not measured: {INSTEAD}",)
    notes += _changed(config, gone, factors, taken=taken is not None)
    if config.sparsity and kept and all(row.zeros is None for row in rows):
        notes += (f"no weights are zero: no layer of {WORTH:,} weights or more has inputs that four divides",)
    notes += (*(work.teacher.notes if work.teacher else ()), *written.notes)
    misses = _misses(asked, outcome.misses(config, rows, taken), context)
    taught, loss = handed_on(parent)
    more = {"pruning": pruning, "misses": misses, "notes": list(notes), "taught": taught, "loss": loss}
    return PruneResult.of(written, **more)


def _changed(config: Prune, gone: list[Any], factors: list[Any], *, taken: bool) -> tuple[str, ...]:
    """What is told of the blocks that are ``gone`` and of the layers in ``factors``."""
    lines = []
    if config.depth and not gone:
        lines.append(
            f"no block goes: no stack has so many that {config.depth:g} of them are one, all of them are held (prune.ignore,"
            " prune.branches), or the network does not run without one"
        )
    if config.rank and not factors:
        lines.append(f"no layer is so large that two factors of {config.rank:g} of its weights keep what it gives")
    for what, steps in (("blocks removed", gone), ("layers in two factors", factors)):
        if steps and taken:
            lines.append(f"{what}: {', '.join(step[1].removeprefix('inner.') for step in steps)}")
    return tuple(lines)


def _misses(config: Prune, found: list[MissRecord], context: Context) -> list[MissRecord]:
    """``found`` and, where a size was asked for, whether what the main process wrote is as small."""
    return processes.of_main(lambda: size.misses(config, context.folder / GRAPH, found))


def _written(kept: Narrowed | None, parent: Artifact, work: PruneWork) -> StageResult:
    """What was kept as the files of an artifact; the parent's where nothing was."""
    if kept is None or kept.fitted is None:
        return write_unchanged(parent, work.context)
    model = load.section_of(parent)
    return write_trained(Trained(kept.module, work.contract, kept.fitted, model, kept.history), work.context)


def _rounding(module: nn.Module, work: PruneWork) -> tuple[int, dict[str, float] | None]:
    """The multiple that widths are kept at, and the times that led to it where it was measured."""
    if work.config.round_to != "auto":
        return work.config.round_to, None
    threads = work.context.recipe.measure.threads

    def measured() -> tuple[int, dict[str, float]]:
        return processes.of_main(lambda: preferred_block(module, work.contract, threads=threads))

    block, widths = work.remembered("block", threads, tuple[int, dict[str, float]], measured)
    return max(block, _GPU_BLOCK if work.context.recipe.export.on_gpu else 1), widths
