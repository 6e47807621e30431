"""Runs side by side: the figures of every stage that they share, on the terminal, as a page and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field

from mmedge.frozen import Record
from mmedge.report import Interval
from mmedge.report.schema import GateRecord, Report, StageRecord
from mmedge.report.table import console_for, short


class ValueRecord(Record):
    """A figure of one run. ``change``: what it has more than the first run's; absent for the first, and where one of them lacks it."""

    value: float
    ci95: Interval | None = None
    change: float | None = None


class RowRecord(Record):
    """A figure of a stage, of every run in order; null where a run does not have it."""

    stage: str
    figure: str
    unit: Literal["", "ms", "bytes", "of teacher"] = ""
    more_is_better: bool
    values: list[ValueRecord | None]


class RunRecord(Record):
    """One of the runs."""

    name: str = Field(description="The folder's name, with as many before it as tell it from the others.")
    recipe: str
    mmedge: str
    seed: int
    verdict: str
    failed: list[str] = Field(description="Stage and name of each gate that did not pass, or of which one cannot tell.")


class ComparisonRecord(Record):
    """Several runs. ``notes``: why figures are not comparable, where they are not."""

    schema_: Literal[1] = Field(1, alias="schema")
    runs: list[RunRecord]
    rows: list[RowRecord]
    notes: list[str]


def compare(reports: Sequence[tuple[str, Report]]) -> ComparisonRecord:
    """Of (name, report), the first being what the others are compared with."""
    stages = dict.fromkeys(stage.stage for _, report in reports for stage in report.stages)
    found = [{stage.stage: stage for stage in report.stages} for _, report in reports]
    return ComparisonRecord(
        schema=1,
        runs=[
            RunRecord(
                name=name,
                recipe=str(report.recipe.get("name", "")),
                mmedge=report.mmedge,
                seed=report.seed,
                verdict=report.verdict,
                failed=[
                    f"{stage.stage}: {gate.name}" for stage in report.stages for gate in stage.gates if not gate.passed
                ],
            )
            for name, report in reports
        ],
        rows=[row for stage in stages for row in _rows(stage, [each.get(stage) for each in found])],
        notes=list(_notes([report for _, report in reports])),
    )


def _rows(name: str, stages: list[StageRecord | None]) -> Iterator[RowRecord]:
    """The figures that at least one run has of a stage."""
    subsets = dict.fromkeys(subset for stage in stages if stage for subset in stage.subsets or {})
    heads = dict.fromkeys(head for stage in stages if stage for head in stage.heads or {})
    metric = next((stage.quality.metric for stage in stages if stage and stage.quality), "quality")
    figures: list[tuple[str, Literal["", "ms", "bytes", "of teacher"], bool, list[ValueRecord | None]]] = [
        (metric, "", True, [_quality(stage) for stage in stages]),
        *(
            (head, "", True, [_quality(stage.heads.get(head)) if stage and stage.heads else None for stage in stages])
            for head in heads
        ),
        *(
            (subset, "", True, [_value((stage.subsets or {}).get(subset)) if stage else None for stage in stages])
            for subset in subsets
        ),
        ("latency p50", "ms", False, [_value(s.latency.p50_ms) if s and s.latency else None for s in stages]),
        (
            "latency p50",
            "of teacher",
            False,
            [_value(s.latency.ratio_to_teacher) if s and s.latency else None for s in stages],
        ),
        ("size", "bytes", False, [_value(stage.size_bytes) if stage else None for stage in stages]),
    ]
    for figure, unit, more_is_better, values in figures:
        if any(values):
            changed = [_changed(value, values[0], number) for number, value in enumerate(values)]
            yield RowRecord(stage=name, figure=figure, unit=unit, more_is_better=more_is_better, values=changed)


def _quality(stage: Any) -> ValueRecord | None:
    return ValueRecord(value=stage.quality.value, ci95=stage.quality.ci95) if stage and stage.quality else None


def _value(value: float | None) -> ValueRecord | None:
    return None if value is None else ValueRecord(value=value)


def _changed(value: ValueRecord | None, first: ValueRecord | None, number: int) -> ValueRecord | None:
    if value is None or first is None or number == 0:
        return value
    return ValueRecord(**value.record(), change=value.value - first.value)


def _notes(reports: list[Report]) -> Iterator[str]:
    first = reports[0]
    if any(report.data.sha256 != first.data.sha256 for report in reports):
        yield "the runs have not the same data: accuracies are of different samples"
    if any(report.machine.record() != first.machine.record() for report in reports):
        yield "the runs were timed on different machines or versions: compare ratios to the teacher, not milliseconds"
    elif len({report.provenance.started for report in reports if report.provenance}) > 1:
        yield "the runs were timed at different times: of latency, ratios to the teacher are the safer figures"
    if len({report.mmedge for report in reports}) > 1:
        yield f"written by mmedge {', '.join(report.mmedge for report in reports)}"


def text_of(row: RowRecord, value: ValueRecord | None) -> str:
    """A cell: the value, its interval, and the change from the first run."""
    if value is None:
        return "—"
    if row.unit == "bytes":
        changed = (
            "" if value.change is None else f" ({'+' if value.change >= 0 else '−'}{short(int(abs(value.change)))}B)"
        )
        return f"{value.value / 1000:,.0f} kB{changed}"
    interval = " [{:.3f}, {:.3f}]".format(*value.ci95) if value.ci95 else ""
    return f"{value.value:.3f}{interval}" + ("" if value.change is None else f" ({value.change:+.3f})")


def heading_of(row: RowRecord) -> str:
    """What a row is of, without its stage."""
    return row.figure if row.unit in ("", "bytes") else f"{row.figure}, {row.unit}"


def print_comparison(found: ComparisonRecord) -> None:
    """A column a run, a row a figure, on stderr; then verdicts, failed gates and notes."""
    from rich.table import Table

    table = Table()
    for heading in ("stage", "figure", *(run.name for run in found.runs)):
        table.add_column(heading, justify="left" if heading in ("stage", "figure") else "right", no_wrap=True)
    before = None
    for row in found.rows:
        table.add_row("" if row.stage == before else row.stage, heading_of(row), *(text_of(row, v) for v in row.values))
        before = row.stage
    console, _ = console_for(table)
    console.print(table)
    for run in found.runs:
        console.print(
            f"{run.name}: verdict {run.verdict}" + (f"; not passed: {', '.join(run.failed)}" if run.failed else "")
        )
    for note in found.notes:
        console.print(note)


def comparison_markdown(found: ComparisonRecord) -> str:
    """Two tables for a pull request: verdicts, and figures of what the runs have in common."""
    lines = ["| run | recipe | mmedge | seed | verdict | gates not passed |", "| --- | --- | --- | --- | --- | --- |"]
    for run in found.runs:
        lines.append(
            cells_row([run.name, run.recipe, run.mmedge, str(run.seed), run.verdict, ", ".join(run.failed) or "none"])
        )
    lines += ["", cells_row(["stage", "figure", *(run.name for run in found.runs)])]
    lines.append("| --- | --- |" + " ---: |" * len(found.runs))
    lines += [cells_row([row.stage, heading_of(row), *(text_of(row, v) for v in row.values)]) for row in found.rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in found.notes)]).rstrip() + "\n"


def markdown(report: Report) -> str:
    """One run for a pull request: verdict, a row a stage, the gates."""
    lines = [f"### {plain_words(str(report.recipe.get('name', 'run')))}: {report.verdict}", ""]
    lines += [
        "| stage | quality [95 %] | p50 ms | of teacher | size | params |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for stage in report.stages:
        quality, latency = stage.quality, stage.latency
        ratio = latency.ratio_to_teacher if latency else None
        lines.append(
            cells_row(
                [
                    stage.stage + (f" ({stage.precision})" if stage.precision else ""),
                    "{:.3f} [{:.3f}, {:.3f}]".format(quality.value, *quality.ci95) if quality else "—",
                    f"{latency.p50_ms:.3f}" if latency else "—",
                    "—" if ratio is None else f"{ratio:.3f}",
                    f"{stage.size_bytes / 1000:,.0f} kB" if stage.size_bytes else "—",
                    short(stage.params) if stage.params is not None else "—",
                ]
            )
        )
    gates = [(stage.stage, gate) for stage in report.stages for gate in stage.gates]
    if gates:
        lines += ["", "| stage | gate | limit | value | |", "| --- | --- | ---: | ---: | --- |"]
        lines += [_gate(stage, gate) for stage, gate in gates]
    data = report.data
    lines += [
        "",
        f"{data.train} training, {data.validation} validation, {data.test} test samples; mmedge {report.mmedge}",
    ]
    return "\n".join(lines) + "\n"


def _gate(stage: str, gate: GateRecord) -> str:
    value = "not measured" if gate.value is None else f"{gate.value:.4g}"
    bounds = gate.bounds or gate.ci95
    value += " [{:.4g}, {:.4g}]".format(*bounds) if bounds else ""
    outcome = "passed" if gate.passed else "**cannot tell**" if gate.outcome == "cannot tell" else "**failed**"
    outcome += f": about {gate.needs:,} samples would" if gate.needs else ""
    return cells_row([stage, gate.name, f"{gate.limit:g}", value, outcome])


def cells_row(cells: list[str]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(map(plain_words, cells)) + " |"


def plain_words(text: str) -> str:
    """A user's own words as words: no column, no markup and no line of their own."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
