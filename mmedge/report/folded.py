"""folds.json, the report of a cross-validation, and how it stands on the terminal (stderr)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmedge.frozen import Record
from mmedge.report import Interval
from mmedge.report.schema import RunVerdict
from mmedge.report.table import console_for


class FoldRecord(Record):
    """One fold and where its report lies, relative to folds.json."""

    fold: int
    report: str
    verdict: RunVerdict


class MeanRecord(Record):
    """A figure over the folds that have it; ``values``: of each fold, null where it has none."""

    mean: float
    values: list[float | None]
    ci95: Interval | None = Field(None, description="95 % interval of the mean; absent where one fold alone has it.")


class FoldedStageRecord(Record):
    """A stage's figures over all folds; absent where no fold has them."""

    stage: str
    metric: str | None = None
    quality: MeanRecord | None = None
    params: MeanRecord | None = None
    latency_ratio_to_teacher: MeanRecord | None = None


class FoldsReport(Record):
    """folds.json."""

    schema_: Literal[1] = Field(1, alias="schema")
    mmedge: str
    recipe: str
    folds: list[FoldRecord]
    stages: list[FoldedStageRecord]
    notes: list[str]
    verdict: RunVerdict


def print_folds(summary: FoldsReport) -> None:
    """A row a stage, then the verdict and which folds failed."""
    from rich.table import Table

    table = Table()
    for heading in ("stage", "quality", "of each fold", "latency of teacher's"):
        table.add_column(heading)
    for stage in summary.stages:
        values = stage.quality.values if stage.quality else []
        table.add_row(
            stage.stage,
            _mean(stage.quality),
            " ".join("-" if value is None else f"{value:.3f}" for value in values),
            _mean(stage.latency_ratio_to_teacher),
        )
    console, _ = console_for(table)
    console.print(table)
    for note in summary.notes:
        console.print(note)
    failed = [str(fold.fold) for fold in summary.folds if fold.verdict != "pass"]
    console.print(f"verdict: {summary.verdict}" + (f": of the folds {', '.join(failed)}" if failed else ""))


def _mean(figure: MeanRecord | None) -> str:
    if figure is None:
        return ""
    return f"{figure.mean:.3f}" + (" [{:.3f}, {:.3f}]".format(*figure.ci95) if figure.ci95 else "")
