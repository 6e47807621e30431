"""What to remove for a budget: each branch measured at several ratios, or one ratio for all; the choice is then verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from mmedge.measure.latency import Ratio
from mmedge.report.pruning import OptionRecord
from mmedge.stages.prune.allocation import choose
from mmedge.stages.prune.groups import ChannelGroup
from mmedge.stages.prune.work import PruneWork, Scores

_LARGEST_RATIO, _RATIO_STEPS = 0.95, 40
_CORRECTIONS = 4
# A plan's latency is aimed this much below its limit, since it is measured again afterwards.
_LATENCY_MARGIN = 0.97

Branches = Mapping[str, Sequence[ChannelGroup]]


@dataclass(frozen=True)
class CutPlan:
    """``keep``: {root: units that stay}; ``met``: what was measured of the parent's costs is inside the goal."""

    ratios: dict[str, float]
    keep: dict[str, int]
    predicted: dict[str, float]
    met: bool


def probe(
    work: PruneWork, module: nn.Module, before: Scores, branches: Branches, largest: Mapping[str, float], round_to: int
) -> dict[str, list[OptionRecord]]:
    """{branch: what each ratio leaves and loses}, each branch narrowed alone and judged on validation, as ``before`` was.

    A probe is first recovered for ``probe_steps`` training steps: as cut, all look equally broken. Latencies are of the
    exported graphs, all in one interleaved run on ONNX Runtime CPU.
    """
    config = work.config
    keeps: dict[tuple[str, float], dict[str, int]] = {}
    for branch in branches:
        for ratio in sorted({min(ratio, largest[branch]) for ratio in config.ratios}):
            keep = kept_units(branches, {branch: ratio}, round_to)
            others = [other for (name, _), other in keeps.items() if name == branch]
            if keep != kept_units(branches, {}, round_to) and keep not in others:
                keeps[branch, ratio] = keep
    everything = [group for groups in branches.values() for group in groups]
    cuts = {
        f"{branch} {ratio:g}": work.narrowed(module, everything, keep)[0] for (branch, ratio), keep in keeps.items()
    }
    ratios = work.remembered(
        "branch-latency",
        sorted(cuts),
        dict[str, Ratio],
        lambda: work.latencies(cuts),
    )
    options: dict[str, list[OptionRecord]] = {branch: [] for branch in branches}
    for number, (branch, ratio) in enumerate(keeps):
        name = f"{branch} {ratio:g}"
        work.context.progress.step(
            "sensitivity of the branches", number, len(keeps), f"{ratio:.0%} of {branch} removed"
        )
        judged = work.remembered("sensitivity", name, Scores, partial(_recovered_briefly, work, cuts[name], name))
        left = {"latency": ratios[name].value, **work.shares(cuts[name])}
        loss = before.overall - judged.overall
        figures = {"loss": loss, "quality": judged.quality, "subsets": judged.subsets}
        options[branch].append(OptionRecord(branch=branch, ratio=ratio, left=left, **figures))
    return {branch: found for branch, found in options.items() if found}


def _recovered_briefly(work: PruneWork, module: nn.Module, name: str) -> Scores:
    steps = work.config.probe_steps
    if steps:
        train = work.config.train.model_copy(update={"epochs": 1, "max_steps": steps})
        state = f"probe {name}"
        work.recovered(module, train, state, f"probing {name}")
        (work.context.work / f"{work.beginning}{state}.safetensors").unlink(missing_ok=True)
    return work.judged(module)


def as_it_is(
    work: PruneWork, module: nn.Module, branches: Branches, goal: Mapping[str, float], round_to: int
) -> tuple[CutPlan, dict[str, float]]:
    """(The plan to cut nothing more, the shares of the parent's costs that this leaves): blocks may be gone already."""
    keep, left = kept_units(branches, {}, round_to), dict.fromkeys(goal, 1.0)
    if min(work.shares(module).values()) < 1:
        left = _measured(work, module, branches, keep, goal)
    return CutPlan({}, keep, left, _inside(left, goal)), left


def by_branch(
    work: PruneWork, module: nn.Module, branches: Branches, options: Mapping[str, list[OptionRecord]], goal: Mapping[str, float],
    round_to: int, uncut: Mapping[str, float],
) -> CutPlan:  # fmt: skip
    """The least lossy combination that meets ``goal``: chosen by adding up what was measured, measured, and corrected.

    ``uncut``: what is left of the parent's costs before channels go, of which no option saves what is gone already.
    """
    gone = {name: 1 - share for name, share in uncut.items()}
    more = {branch: [option.model_copy(update={"left": _plus(option.left, gone)}) for option in found]
            for branch, found in options.items()}  # fmt: skip
    limits = _aimed(goal)
    plan = None
    for _ in range(_CORRECTIONS):
        choice, saved = choose(more, _plus(limits, gone))
        predicted = _plus(saved, {name: -share for name, share in gone.items()})
        ratios = {branch: option.ratio for branch, option in choice.items()}
        if plan and plan.ratios == ratios:
            break
        keep = kept_units(branches, ratios, round_to)
        left = _measured(work, module, branches, keep, goal)
        plan = CutPlan(ratios, keep, predicted, _inside(left, goal))
        if plan.met:
            break
        # Savings do not quite add up: what was missed goes on top.
        limits = {
            name: limit * min(1.0, goal[name] / left[name]) if left[name] > goal[name] else limit
            for name, limit in limits.items()
        }
    assert plan is not None
    return plan


def _plus(shares: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    return {name: share + more.get(name, 0.0) for name, share in shares.items()}


def uniform(
    work: PruneWork, module: nn.Module, branches: Branches, largest: Mapping[str, float], goal: Mapping[str, float],
    round_to: int,
) -> CutPlan:  # fmt: skip
    """The smallest ratio that meets ``goal`` where it is the same for every branch (but for the recipe's own limits)."""
    tried: dict[int, CutPlan] = {}

    def meets(step: int) -> bool:
        ratio = _LARGEST_RATIO * step / _RATIO_STEPS
        ratios = {branch: min(ratio, largest[branch]) for branch in branches}
        keep = kept_units(branches, ratios, round_to)
        left = _measured(work, module, branches, keep, goal)
        tried[step] = CutPlan(ratios, keep, {}, _inside(left, goal))
        return tried[step].met

    return tried[smallest(_RATIO_STEPS, meets)]


def smallest(steps: int, meets: Callable[[int], bool]) -> int:
    """The first of 1 to ``steps`` that ``meets``, by bisection; ``steps`` where none does."""
    low, high = 1, steps
    meets(high)
    while low < high:
        middle = (low + high) // 2
        if meets(middle):
            high = middle
        else:
            low = middle + 1
    return high


def kept_units(branches: Branches, ratios: Mapping[str, float], round_to: int) -> dict[str, int]:
    """{root: units that stay} where each branch is narrowed by its ratio, 0 where it is not named."""
    return {
        group.root: group.keeps(ratios.get(branch, 0.0), round_to)
        for branch, groups in branches.items()
        for group in groups
    }


def _measured(
    work: PruneWork, module: nn.Module, branches: Branches, keep: Mapping[str, int], goal: Mapping[str, float]
) -> dict[str, float]:
    """The shares of the parent's costs that are left; latency only where the goal names it, since it takes a while."""
    trial, _ = work.narrowed(module, [group for groups in branches.values() for group in groups], keep)
    left = work.shares(trial)
    if "latency" in goal:
        left["latency"] = latency_of(work, trial, keep).value
    return left


def latency_of(work: PruneWork, module: nn.Module, keep: Mapping[str, int]) -> Ratio:
    """The latency over the parent's of ``module``, which has these units; measured once."""
    return work.remembered("latency", keep, Ratio, lambda: work.latencies({"cut": module})["cut"])


def _aimed(goal: Mapping[str, float]) -> dict[str, float]:
    return {name: limit * (_LATENCY_MARGIN if name == "latency" else 1.0) for name, limit in goal.items()}


def _inside(left: Mapping[str, float], goal: Mapping[str, float]) -> bool:
    return all(left[name] <= limit for name, limit in goal.items())
