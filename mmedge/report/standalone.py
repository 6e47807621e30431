"""The report of a quantized ONNX file as a table on the terminal (stderr)."""

from __future__ import annotations

from mmedge.report.quantized_file import FileReport
from mmedge.report.schema import UnmadeRecord
from mmedge.report.table import console_for


def print_quantized(report: FileReport) -> None:
    """A row a candidate, with its interval, its latency and why it was kept or not; then the notes and the choice."""
    from rich.table import Table
    from rich.text import Text

    data = report.data
    table = Table(title=f"{report.model}: {data.calibration} calls calibrated, {data.judged} others judge")
    for heading in ("candidate", "score [95 %]", "drop [95 %]", "p50 ms", "÷ FP32", "size", "kept"):
        table.add_column(heading, justify="left" if heading == "candidate" else "right", no_wrap=True)
    for row in report.candidates:
        if isinstance(row, UnmadeRecord):
            table.add_row(row.precision, *[""] * 5, "no")
            continue
        table.add_row(
            row.precision + (" *" if row.precision == report.precision else ""),
            f"{row.quality_validation:.3f}" + (" [{:.3f}, {:.3f}]".format(*row.ci95) if row.ci95 else ""),
            f"{row.drop:+.3f} [{row.drop_ci95[0]:+.3f}, {row.drop_ci95[1]:+.3f}]",
            f"{row.p50_ms:.3f}",
            f"{row.ratio_to_fp32:.2f}",
            f"{row.size_bytes / 1000:,.0f} kB",
            "yes" if row.kept else "no",
        )
    console, _ = console_for(table)
    console.print(table)
    console.print(f"judged by {report.judged_by}; budget: a drop of {report.budget.max_drop:g}")
    for note in report.notes:
        console.print(f"  {note}")
    for miss in report.misses:
        rest = f" {miss.name} is {miss.value:.4g}, limit {miss.limit:g}"
        console.print(Text.assemble("  ", ("FAILED", "red"), rest))
    console.print(f"model.onnx is the {report.precision} candidate; verdict: {report.verdict}")
