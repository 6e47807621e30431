"""The report as a table on the terminal (stderr)."""

from __future__ import annotations

from functools import partial
from typing import Any

from mmedge.report.pruned import print_pruning
from mmedge.report.record import modality_subsets
from mmedge.report.schema import QualityRecord, Report, StageRecord


def print_report(report: Report) -> None:
    """Stages in rows: quality with its interval, every subset, latency and its ratio; then gates and verdict.

    A narrow terminal gets the columns that matter most; a log gets all of them.
    """
    from rich.text import Text

    subsets = modality_subsets(report)[:-1]
    table = _table(report, subsets, wide=True)
    console, fits = console_for(table)
    console.print(table if fits else _table(report, subsets, wide=False))
    for stage in report.stages:
        if stage.pruning:
            print_pruning(console, stage.pruning)
        if stage.privacy and stage.learning:  # where it was spent
            console.print(f"{stage.stage}: {stage.privacy}")
        if stage.decision:
            console.print(f"{stage.stage}: {stage.decision.said}")
        for name, head in (stage.heads or {}).items():
            if head.quality:
                figure = f"{head.quality.metric} {_interval(head.quality)}, n = {head.quality.n}"
                console.print(f"{stage.stage}: {name} {figure}")
    for control in report.controls:
        low, high = control.gain_ci95
        seeds = "seed" if control.seeds == 1 else f"seeds (median {control.gain_median:+.3f})"
        console.print(
            f"{control.name}: gain {control.gain:+.3f} [{low:+.3f}, {high:+.3f}] over {control.seeds} {seeds}; {control.notes[0]}"
        )
    for stage in report.stages:
        for gate in stage.gates:
            unclear = gate.outcome == "cannot tell"
            mark = ("passed", "green") if gate.passed else ("cannot tell", "yellow") if unclear else ("FAILED", "red")
            ends = gate.bounds or gate.ci95
            value = "not measured" if gate.value is None else f"{gate.value:.4g}"
            value += f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""
            more = f"; about {gate.needs:,} samples would tell, {gate.n} cannot" if gate.needs else ""
            console.print(
                Text.assemble("  ", mark, f" {stage.stage}: {gate.name} is {value}, limit {gate.limit:g}{more}")
            )
    colour = {"pass": "green", "fail": "red"}.get(report.verdict, "yellow")
    none = report.recipe.get("gates") == "none"
    nothing = {"not judged": ": the recipe asks nothing (gates: none)" if none else ": nothing that ships was made"}
    console.print(Text.assemble("verdict: ", (report.verdict, f"bold {colour}"), nothing.get(report.verdict, "")))


def _interval(quality: QualityRecord) -> str:
    return f"{quality.value:.3f} [{quality.ci95[0]:.3f}, {quality.ci95[1]:.3f}]"


_ANY_WIDTH = 100_000


def console_for(table: Any) -> tuple[Any, bool]:
    """A rich console on stderr, and whether the table fits it. A log has no width: rich would take 80 columns and cut.

    What looks like rich's markup in a name is that name.
    """
    from rich.console import Console

    plain = partial(Console, stderr=True, highlight=False, markup=False, emoji=False)
    console = plain()
    needed = plain(width=_ANY_WIDTH).measure(table).maximum
    if not console.is_terminal:
        console = plain(width=max(needed, console.width))
    return console, needed <= console.width


def _table(report: Report, subsets: list[str], wide: bool) -> Any:
    from rich.table import Table

    data = report.data
    table = Table(
        title=f"{report.recipe['name']}: {data.source}, {data.train} training, {data.validation} validation, {data.test} test samples"
    )
    for heading in _columns(subsets, wide):
        table.add_column(heading, justify="left" if heading == "stage" else "right", no_wrap=True)
    for stage in report.stages:
        cells = _cells(stage, subsets)
        table.add_row(*(cells.get(heading, "") for heading in _columns(subsets, wide)))
    if report.baseline:
        quality = report.baseline.quality
        cells = {"stage": "baseline", "quality": f"{quality.value:.3f}", "quality [95 %]": _interval(quality)}
        few = report.baseline.rows is not None and report.baseline.rows < data.train
        status = f"linear, of {report.baseline.rows:,} samples" if few else "linear"
        table.add_row(*((cells | {"status": status}).get(heading, "") for heading in _columns(subsets, wide)))
    return table


def _columns(subsets: list[str], wide: bool) -> list[str]:
    if wide:
        return [
            "stage",
            "params",
            "MACs",
            "size",
            "quality [95 %]",
            *subsets,
            "p50 ms",
            "p95 ms",
            "of teacher",
            "status",
        ]
    return ["stage", "quality", *subsets, "p50 ms", "of teacher"]


def _cells(stage: StageRecord, subsets: list[str]) -> dict[str, str]:
    cells = {"stage": stage.stage, "status": stage.status}
    if stage.status == "skipped":
        return cells | {"p50 ms": "skipped"}
    quality, latency, of_subset = stage.quality, stage.latency, stage.subsets or {}
    cells |= {
        "params": "unknown" if stage.params is None else short(stage.params),
        "MACs": "unknown" if stage.macs is None else short(stage.macs),
        "size": f"{(stage.size_bytes or 0) / 1000:,.0f} kB",
        "quality": f"{quality.value:.3f}" if quality else "not measured",
        "quality [95 %]": _interval(quality) if quality else "not measured",
        "p50 ms": f"{latency.p50_ms:.3f}" if latency else "not measured",
    }
    cells |= {name: f"{of_subset[name]:.3f}" for name in subsets if name in of_subset}
    if latency:
        cells["p95 ms"] = f"{latency.p95_ms:.3f}"
        if latency.ratio_to_teacher is not None:
            cells["of teacher"] = f"{latency.ratio_to_teacher:.3f}"
    return cells


def short(count: float) -> str:
    """A count with three figures and a suffix: 3.72M."""
    for suffix, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= unit:
            return f"{count / unit:.3g}{suffix}"
    return str(count)
