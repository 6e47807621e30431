"""The frontier: every candidate of every stage by accuracy, latency and size, with the gates as lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmedge.report.plots import FAINT, INK, figure_and_axes, millisecond_ticks, svg_of, tip
from mmedge.report.schema import Report, StageRecord, UnmadeRecord
from mmedge.report.table import short


@dataclass(frozen=True)
class Point:
    """A candidate. ``quality``: on validation, where all of them were measured; ``size_bytes`` of a cut is its share of the parent's.

    ``kept``: it is a stage's result, or was taken for one.
    """

    stage: str
    name: str
    quality: float
    latency_ms: float
    size_bytes: float
    kept: bool
    why: str = ""
    best: bool = False


def points(report: Report) -> list[Point]:
    """All that have the three figures; ``best`` where none is both as good, as fast and better in one of the two."""
    found = [
        point
        for stage in report.stages
        for point in (*_stage(stage), *_cuts(stage, report), *_precisions(stage, report))
    ]
    return [Point(**{**vars(point), "best": not any(_beats(other, point) for other in found)}) for point in found]


def _beats(other: Point, point: Point) -> bool:
    as_good = other.quality >= point.quality and other.latency_ms <= point.latency_ms
    return as_good and (other.quality, other.latency_ms) != (point.quality, point.latency_ms)


def _stage(stage: StageRecord) -> Iterator[Point]:
    if stage.latency and stage.quality_validation and stage.size_bytes:
        yield Point(
            stage.stage, stage.stage, stage.quality_validation.value, stage.latency.p50_ms, stage.size_bytes, kept=True
        )


def _parent(stage: StageRecord, report: Report) -> StageRecord | None:
    return next((other for other in report.stages if other.sha256 and other.sha256 == stage.parent), None)


def _cuts(stage: StageRecord, report: Report) -> Iterator[Point]:
    """Attempts of pruning that were recovered; latency and size from their shares of the parent's."""
    parent = _parent(stage, report)
    if not stage.pruning or not parent or not parent.latency or not parent.size_bytes:
        return
    for number, attempt in enumerate(stage.pruning.attempts):
        if attempt.quality is not None and "latency" in attempt.left:
            latency_ms = attempt.left["latency"] * parent.latency.p50_ms
            size = attempt.left.get("params", 1.0) * parent.size_bytes
            taken = stage.pruning.kept == number
            yield Point(stage.stage, f"cut {attempt.step}", attempt.quality, latency_ms, size, taken, attempt.why)


def _precisions(stage: StageRecord, report: Report) -> Iterator[Point]:
    """Precisions, on the time scale of the run that all stages were timed in."""
    parent = _parent(stage, report)
    for row in stage.candidates or ():
        if isinstance(row, UnmadeRecord):
            continue
        latency_ms = parent.latency.p50_ms * row.ratio_to_fp32 if parent and parent.latency else row.p50_ms
        yield Point(
            stage.stage, row.precision, row.quality_validation, latency_ms, row.size_bytes,
            row.precision == stage.precision, row.why,
        )  # fmt: skip


def limits(report: Report) -> tuple[dict[str, float], dict[str, float]]:
    """({name: ms}, {name: quality}): the gates that are lines here."""
    teacher = next((stage for stage in report.stages if stage.parent is None), None)
    across: dict[str, float] = {}
    along: dict[str, float] = {}
    for stage in report.stages:
        for gate in stage.gates:
            name = f"{stage.stage}: {gate.name}"
            if gate.name in ("latency_p50_ms", "latency_mean_ms"):
                along[name] = gate.limit
            elif gate.name == "latency_ratio_to_teacher" and teacher and teacher.latency:
                along[name] = gate.limit * teacher.latency.p50_ms
            elif gate.name == "quality":
                across[name] = gate.limit
            elif gate.name == "quality_drop_to_teacher" and teacher and teacher.quality:
                across[name] = teacher.quality.value - gate.limit
            elif gate.name == "quality_ratio_to_teacher" and teacher and teacher.quality:
                across[name] = gate.limit * teacher.quality.value
    return along, across


def draw(report: Report) -> str:
    """A circle a candidate, its area by size; filled where it was taken; the line joins those that none beats."""
    found = points(report)
    figure, axes = figure_and_axes(8.2, 4.4)
    colours = {stage: f"C{number}" for number, stage in enumerate(dict.fromkeys(point.stage for point in found))}
    largest = max(point.size_bytes for point in found)
    for stage, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=stage)
    for point in found:
        (dot,) = axes.plot(
            point.latency_ms, point.quality, "o", color=colours[point.stage],
            markersize=5 + 14 * (point.size_bytes / largest) ** 0.5,
            markerfacecolor=colours[point.stage] if point.kept else "none", alpha=0.75,
        )  # fmt: skip
        words = (
            f"{point.stage} {point.name}: {point.quality:.3f}, {point.latency_ms:.3f} ms, {short(point.size_bytes)}B"
        )
        tip(dot, f"{words}. {point.why}".rstrip(". "))
    best = sorted((point.latency_ms, point.quality) for point in found if point.best)
    axes.plot(*zip(*best), color=INK, linewidth=1, zorder=0, drawstyle="steps-post")
    along, across = limits(report)
    for lines, values in ((axes.axvline, along), (axes.axhline, across)):
        for name, limit in values.items():
            tip(lines(limit, color="#d64545", linewidth=1, linestyle="--", zorder=0), f"gate {name}: {limit:.4g}")
    if along or across:
        axes.plot([], [], color="#d64545", linewidth=1, linestyle="--", label="gates")
    axes.set_xscale("log")
    millisecond_ticks(axes)
    axes.set_xlabel("latency p50, ms (logarithmic; area: size)")
    axes.set_ylabel("quality on validation")
    axes.legend(frameon=False, fontsize=9, loc="best")
    axes.grid(alpha=0.25, which="both", color=FAINT)
    return svg_of(figure)
