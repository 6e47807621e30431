"""Cross-validation on the terminal (stderr): each stage's figures as mean and interval over the folds."""

from __future__ import annotations

from typing import Any

from mmedge.report.table import console_for


def print_folds(summary: dict[str, Any]) -> None:
    """A row a stage, then the verdict and which folds failed."""
    from rich.table import Table

    table = Table()
    for heading in ("stage", "quality", "of each fold", "latency of teacher's"):
        table.add_column(heading)
    for stage in summary["stages"]:
        values = stage.get("quality", {}).get("values", [])
        table.add_row(
            stage["stage"],
            _said(stage.get("quality")),
            " ".join("-" if value is None else f"{value:.3f}" for value in values),
            _said(stage.get("latency_ratio_to_teacher")),
        )
    console, _ = console_for(table)
    console.print(table)
    for note in summary["notes"]:
        console.print(note)
    failed = [str(fold["fold"]) for fold in summary["folds"] if fold["verdict"] != "pass"]
    console.print(f"verdict: {summary['verdict']}" + (f": of the folds {', '.join(failed)}" if failed else ""))


def _said(figure: dict[str, Any] | None) -> str:
    if not figure:
        return ""
    interval = " [{:.3f}, {:.3f}]".format(*figure["ci95"]) if "ci95" in figure else ""
    return f"{figure['mean']:.3f}{interval}"
