"""The report as a table on the terminal (stderr)."""

from __future__ import annotations

import sys
from typing import Any

from mmedge.report.record import modality_subsets


def print_report(report: dict[str, Any]) -> None:
    """Stages in rows: size, accuracy with its interval, every subset, latency and its ratios; then gates and verdict."""
    from rich.console import Console
    from rich.table import Table

    # A log has no width of its own; at rich's 80 columns whole figures would be cut away.
    console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 180)
    data = report["data"]
    table = Table(
        title=f"{report['recipe']['name']}: {data['source']}, {data['train']} / {data['validation']} / {data['test']} samples"
    )
    table.add_column("stage", no_wrap=True)
    for heading in (
        "params",
        "MACs",
        "size",
        "accuracy [95 %]",
        *modality_subsets(report)[:-1],
        "p50 ms",
        "p95 ms",
        "of teacher",
        "status",
    ):
        table.add_column(heading, justify="right", no_wrap=heading != "accuracy [95 %]")
    for stage in report["stages"]:
        table.add_row(*_row(stage, modality_subsets(report)[:-1]))
    console.print(table)
    for control in report["controls"]:
        low, high = control["gain_ci95"]
        console.print(
            f"{control['name']}: gain {control['gain']:+.3f} [{low:+.3f}, {high:+.3f}] over {control['seeds']} seeds; {control['notes'][0]}"
        )
    for stage in report["stages"]:
        for gate in stage["gates"]:
            mark = "[green]passed[/]" if gate["passed"] else "[red]FAILED[/]"
            value = f"{gate['value']:.4g}" if "value" in gate else "not measured"
            console.print(f"  {mark} {stage['stage']}: {gate['name']} is {value}, limit {gate['limit']:g}")
    colour = "green" if report["verdict"] == "pass" else "red"
    console.print(f"verdict: [bold {colour}]{report['verdict']}[/]")


def _row(stage: dict[str, Any], subsets: list[str]) -> list[str]:
    if stage["status"] == "skipped":
        return [stage["stage"], *[""] * (len(subsets) + 7), "skipped"]
    quality, latency = stage["quality"], stage.get("latency", {})
    return [
        stage["stage"],
        short(stage["params"]),
        short(stage["macs"]),
        f"{stage['size_bytes'] / 1000:,.0f} kB",
        f"{quality['value']:.3f} [{quality['ci95'][0]:.3f}, {quality['ci95'][1]:.3f}]",
        *(f"{stage['subsets'][name]:.3f}" if name in stage["subsets"] else "" for name in subsets),
        f"{latency['p50_ms']:.3f}" if latency else "not measured",
        f"{latency['p95_ms']:.3f}" if latency else "",
        f"{latency['ratio_to_teacher']:.3f}" if "ratio_to_teacher" in latency else "",
        stage["status"],
    ]


def short(count: float) -> str:
    """A count with three figures and a suffix: 3.72M."""
    for suffix, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= unit:
            return f"{count / unit:.3g}{suffix}"
    return str(count)
