"""The frontier: every candidate of every stage by accuracy, latency and size, with the gates as lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mmedge.report import Interval
from mmedge.report.plots import FAINT, INK, figure_and_axes, millisecond_ticks, svg_of, tip
from mmedge.report.schema import CandidateRecord, Report, StageRecord, UnmadeRecord
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
    ci95: Interval | None = None


def points(report: Report) -> list[Point]:
    """All that have the three figures, each once; ``best`` where none is as good, as fast and as small, and better in one of these."""
    return compared(
        point
        for stage in report.stages
        for point in (*_stage(stage), *_cuts(stage, report), *_precisions(stage, report))
    )


def compared(points: Iterable[Point]) -> list[Point]:
    """With ``best`` said of each."""
    found = list(points)
    return [Point(**{**vars(point), "best": not any(_beats(other, point) for other in found)}) for point in found]


def _beats(other: Point, point: Point) -> bool:
    theirs, ours = ((-each.quality, each.latency_ms, each.size_bytes) for each in (other, point))
    return theirs != ours and all(a <= b for a, b in zip(theirs, ours))


def _stage(stage: StageRecord) -> Iterator[Point]:
    quality, latency = stage.quality_validation, stage.latency
    if latency and quality and stage.size_bytes and not _taken(stage):
        yield Point(
            stage.stage, stage.stage, quality.value, latency.p50_ms, stage.size_bytes, kept=True, ci95=quality.ci95
        )


def _taken(stage: StageRecord) -> CandidateRecord | None:
    """The candidate that is the stage's result."""
    made = [row for row in stage.candidates or () if isinstance(row, CandidateRecord)]
    return next((row for row in made if row.precision == stage.precision), None)


def _parent(stage: StageRecord, report: Report) -> StageRecord | None:
    return next((other for other in report.stages if other.sha256 and other.sha256 == stage.parent), None)


def _cuts(stage: StageRecord, report: Report) -> Iterator[Point]:
    """Attempts of pruning that were recovered and not taken; latency and size from their shares of the parent's."""
    parent = _parent(stage, report)
    if not stage.pruning or not parent or not parent.latency or not parent.size_bytes:
        return
    for number, attempt in enumerate(stage.pruning.attempts):
        if attempt.quality is not None and "latency" in attempt.left and stage.pruning.kept != number:
            latency_ms = attempt.left["latency"] * parent.latency.p50_ms
            size = attempt.left.get("params", 1.0) * parent.size_bytes
            yield Point(stage.stage, f"cut {attempt.step}", attempt.quality, latency_ms, size, False, attempt.why)


def _precisions(stage: StageRecord, report: Report) -> Iterator[Point]:
    """Precisions, on the time scale of the run that all stages were timed in."""
    parent = _parent(stage, report)
    for row in stage.candidates or ():
        if isinstance(row, UnmadeRecord):
            continue
        latency_ms = parent.latency.p50_ms * row.ratio_to_fp32 if parent and parent.latency else row.p50_ms
        if row is _taken(stage) and stage.latency:
            latency_ms = stage.latency.p50_ms
        yield Point(
            stage.stage, row.precision, row.quality_validation, latency_ms, row.size_bytes,
            row is _taken(stage), row.why, ci95=row.ci95,
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
    """The candidates of a run, with its gates."""
    return drawn(points(report), *limits(report))


def drawn(found: list[Point], along: Mapping[str, float], across: Mapping[str, float]) -> str:
    """A circle a candidate, its area by size; filled where it was taken; the line joins those that none beats.

    ``along`` {gate: ms} and ``across`` {gate: quality} are lines.
    """
    figure, axes = figure_and_axes(11.4, 4.4)
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
        within = f" [{point.ci95[0]:.3f}, {point.ci95[1]:.3f}]" if point.ci95 else ""
        words = f"{point.stage} {point.name}: {point.quality:.3f}{within}, {point.latency_ms:.3f} ms, {short(point.size_bytes)}B"
        tip(dot, f"{words}. {point.why}".rstrip(". "))
    axes.plot(*zip(*_line(found)), color=INK, linewidth=1, zorder=0, drawstyle="steps-post")
    for lines, values in ((axes.axvline, along), (axes.axhline, across)):
        for name, limit in values.items():
            tip(lines(limit, color="#d64545", linewidth=1, linestyle="--", zorder=0), f"gate {name}: {limit:.4g}")
    if along or across:
        axes.plot([], [], color="#d64545", linewidth=1, linestyle="--", label="gates")
    axes.set_xscale("log")
    millisecond_ticks(axes)
    axes.set_xlabel("latency p50, ms (logarithmic; area: size)")
    axes.set_ylabel("quality on validation")
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.25, which="both", color=FAINT)
    return svg_of(figure, zoom=axes)


def _line(found: list[Point]) -> list[tuple[float, float]]:
    """(latency, quality) of those that none beats in these two, the fastest first."""
    line: list[tuple[float, float]] = []
    for at in sorted(((point.latency_ms, point.quality) for point in found), key=lambda at: (at[0], -at[1])):
        if not line or at[1] > line[-1][1]:
            line.append(at)
    return line
