"""What pruning tells: why an attempt was kept or not, the table of branches, notes, and whether the budget was met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mmedge.gate import ACCURACY_EXIT, COST_EXIT
from mmedge.measure import budget as measured
from mmedge.measure.budget import WHOLE, Budget
from mmedge.recipe import Prune
from mmedge.report import Figures, Interval
from mmedge.report.pruning import AttemptRecord, BranchRecord, OptionRecord
from mmedge.report.schema import MissRecord
from mmedge.stages.prune.groups import ChannelGroup
from mmedge.stages.prune.work import Scores


class Recovered(AttemptRecord):
    """A cut that was recovered, so that what it lost on validation is known."""

    quality: float
    subsets: Figures
    drop: float
    drop_ci95: Interval
    worst_subset: str
    worst_subset_drop: float


@dataclass(frozen=True)
class CutLoss:
    """What a cut lost on the validation split, and whether that is inside the budget of accuracy (``passed``)."""

    drop: float
    drop_bound: float
    worst_subset: str
    worst_subset_drop: float
    passed: bool
    unproven: str | None = None


def not_worth_it(config: Prune, row: AttemptRecord, *, nothing_cut: bool) -> str | None:
    """Why a cut is not recovered; None where it is. Several steps go on: what is not faster yet may be."""
    if nothing_cut:
        return "no branch can be narrowed further by whole blocks of channels"
    if config.faster and config.steps == 1 and not row.faster:
        return f"{_costs(row)}: no faster than the parent beyond the noise, so it was not recovered"
    return None


def losses(budget: Budget, lost: measured.Losses) -> CutLoss:
    """What an attempt lost on the validation split, and whether that is inside the budget of accuracy."""
    worst = budget.worst(lost)
    return CutLoss(
        drop=lost[WHOLE].value,
        drop_bound=lost[WHOLE].high,
        worst_subset=worst,
        worst_subset_drop=lost[worst].value if worst else 0.0,
        passed=budget.over(lost) <= 0,
        unproven=budget.unproven(lost),
    )


def recovered(cut: AttemptRecord, after: Scores, lost: CutLoss, drop_ci95: Interval, config: Prune) -> Recovered:
    """The record of a cut that was recovered, with a line on it."""
    figures = {"quality": after.quality, "subsets": after.subsets, "drop_ci95": drop_ci95}
    kept = {name: value for name, value in asdict(lost).items() if name != "unproven"}
    row = Recovered.model_validate({**cut.record(), **figures, **kept})
    return row.model_copy(update={"why": _in_words(config, row, lost.unproven)})


def _in_words(config: Prune, row: Recovered, unproven: str | None) -> str:
    lost = f"validation {row.quality:.3f} ({_change(row)}), {row.worst_subset} {-row.worst_subset_drop:+.3f}"
    if row.passed:
        return f"{_costs(row)}, {lost}"
    if unproven:
        return f"{_costs(row)}, {lost}: {unproven}"
    return f"{_costs(row)}, {lost}: more than max_drop {config.max_drop:g} and max_subset_drop {config.max_subset_drop:g} allow"


def table(
    branches: Mapping[str, Sequence[ChannelGroup]], options: Mapping[str, list[OptionRecord]], row: AttemptRecord
) -> list[BranchRecord]:
    """One row a branch: its layers, what was measured of it at each ratio, and the ratio of the attempt ``row``."""
    return [
        BranchRecord(
            branch=name,
            layers=[group.root.removeprefix("inner.") for group in groups],
            channels=sum(len(group.units) * len(group.units[0]) for group in groups),
            options=options.get(name, []),
            ratio=row.ratios.get(name, 0.0),
        )
        for name, groups in branches.items()
    ]


def notes(
    config: Prune, rows: list[AttemptRecord], kept: Recovered | None, *, taught: bool, round_to: int
) -> tuple[str, ...]:
    """What a reader of the report must know."""
    lines = _notes(config, rows, kept, taught=taught)
    if round_to > 1 and not any(row.in_budget for row in rows):
        lines += (
            f"no cut by whole blocks of {round_to} channels is inside the budget; a smaller prune.round_to allows more",
        )
    elif round_to > 1 and kept is None:
        lines += (f"cuts are by whole blocks of {round_to} channels; a smaller prune.round_to allows finer ones",)
    return lines


def _notes(config: Prune, rows: list[AttemptRecord], kept: Recovered | None, *, taught: bool) -> tuple[str, ...]:
    if kept is None:
        best = best_tried(rows)
        return (
            "the parent is returned, unpruned: nothing that was tried is faster and as accurate"
            if config.faster
            else "the parent is returned, unpruned: nothing that was tried is as accurate",
            f"the best that was tried: {best.why}",
        )
    shares = ", ".join(f"{ratio:.0%} of {name}" for name, ratio in kept.ratios.items() if ratio)
    low, high = kept.latency_ci95
    lines = [
        f"{1 - kept.left['macs']:.0%} of the parent's MACs removed by {config.importance} importance, "
        f"recovered {'with the teacher' if taught else 'without a teacher'}",
        f"channels removed: {shares or 'none'}; {kept.left['latency']:.2f} x the parent's latency [{low:.2f}, {high:.2f}]; "
        f"{_change(kept)} on validation, worst subset {kept.worst_subset} {-kept.worst_subset_drop:+.3f}",
    ]
    if kept.zeros is not None:
        lines.append(
            f"{kept.zeros:.0%} of its weights are zero, two of four: no backend on this machine computes it faster for that; "
            "TensorRT does on GPUs from Ampere on, where nothing was measured"
        )
    elif not kept.faster:
        lines.append(
            "no faster than its parent here beyond the noise, and taken since the recipe says 'faster: false' or 'prefer: size'"
        )
    lines += [f"not taken: {row.why}" for row in rows if row is not kept and not row.passed]
    return tuple(lines)


def best_tried(rows: list[AttemptRecord]) -> AttemptRecord:
    """The attempt that came nearest: of those that were recovered the most accurate, else the fastest."""
    known = [row for row in rows if isinstance(row, Recovered)]
    if known:
        return min(known, key=lambda row: max(row.drop, row.worst_subset_drop))
    return min(rows, key=lambda row: row.left["latency"])


def misses(config: Prune, rows: list[AttemptRecord], kept: Recovered | None) -> list[MissRecord]:
    """What a budget that the recipe asked for misses in what is returned.

    Exit code 3 where a model inside the budget was found and lost too much, else 4. A model in the budget of MACs or
    parameters that is no faster is no miss: the parent is returned since nothing better exists.
    """
    if not config.demanded:
        return []
    left = kept.left if kept else {"latency": 1.0, "macs": 1.0, "params": 1.0}
    # A latency is missed where its interval lies above the limit: it was chosen by another measurement.
    lowest = {**left, "latency": kept.latency_ci95[0] if kept else 1.0}
    too_lossy = [row for row in rows if row.in_budget and isinstance(row, Recovered) and not row.passed]
    no_faster = kept is None and not too_lossy and any(row.in_budget for row in rows)
    return [
        MissRecord(
            name=f"prune.budget.{name}",
            limit=limit,
            value=left[name],
            exit=ACCURACY_EXIT if too_lossy else COST_EXIT,
        )
        for name, limit in config.limits.items()
        if lowest[name] > limit and not (no_faster and name != "latency")
    ]


def _change(row: Recovered) -> str:
    """What recovery left of the quality, with its interval over the validation samples."""
    low, high = row.drop_ci95
    return f"{-row.drop:+.3f} [{-high:+.3f}, {-low:+.3f}]"


def _costs(row: AttemptRecord) -> str:
    low, high = row.latency_ci95
    zeros = "" if row.zeros is None else f"{row.zeros:.0%} of the weights zero (2:4), "
    return f"{zeros}{row.left['macs']:.0%} of the MACs, {row.left['latency']:.2f} x the latency [{low:.2f}, {high:.2f}]"
