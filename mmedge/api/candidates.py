"""The candidates behind a result, as a notebook or a terminal shows them: quality, latency and size, and what was taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmedge.errors import MissingDependency

if TYPE_CHECKING:
    from mmedge.report.charts.frontier import Point
    from mmedge.report.quantized_file import FileReport
    from mmedge.report.schema import Report


def of_report(report: Report, stage: str | None = None) -> list[Point]:
    """The candidates of a run, or of one stage of it."""
    from mmedge.report.charts.frontier import points

    return [point for point in points(report) if stage in (None, point.stage)]


def of_file(report: FileReport) -> list[Point]:
    """The precisions of a quantized file that could be made."""
    from mmedge.report.charts.frontier import Point, compared
    from mmedge.report.schema import CandidateRecord

    return compared(
        Point(
            "quantize", row.precision, row.quality_validation, row.p50_ms, row.size_bytes,
            row.precision == report.precision, row.why, ci95=row.ci95,
        )
        for row in report.candidates
        if isinstance(row, CandidateRecord)
    )  # fmt: skip


def rows(points: Sequence[Point]) -> list[tuple[str, str]]:
    """(candidate, its figures) for people; of one alone they are the result's own."""
    return [] if len(points) < 2 else [(_name(point), _figures(point)) for point in points]


def _name(point: Point) -> str:
    return point.name if point.name == point.stage else f"{point.stage} {point.name}"


def _figures(point: Point) -> str:
    within = f" [{point.ci95[0]:.3f}, {point.ci95[1]:.3f}]" if point.ci95 else ""
    marks = [mark for mark, so in (("taken", point.kept), ("unbeaten", point.best)) if so]
    figures = f"{point.quality:.3f}{within}, {point.latency_ms:.3f} ms, {point.size_bytes / 1000:,.0f} kB"
    return "; ".join([figures, *marks])


def picture(points: Sequence[Point], report: object) -> str:
    """The frontier as SVG, with a run's gates as lines; empty where there is nothing to compare, or no matplotlib."""
    from mmedge.report.charts.frontier import drawn, limits
    from mmedge.report.schema import Report

    if len(points) < 2:
        return ""
    try:
        svg = drawn(list(points), *(limits(report) if isinstance(report, Report) else ({}, {})))
    except MissingDependency:
        return ""
    return f"<div style='max-width:900px'>{svg}</div>"
