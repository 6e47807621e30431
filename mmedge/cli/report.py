"""``mmedge report``."""

from __future__ import annotations

from pathlib import Path

import click

from mmedge.cli.common import framed, print_json


@click.command(
    help="Draw report.html from the report.json of a run, or of a quantized ONNX file, and print its table.\n\n\b\nExample:\n  mmedge report runs/demo"
)
@click.argument("run", type=click.Path(path_type=Path))
@framed
def report(run: Path, as_json: bool) -> None:
    from mmedge.report.html import write_html
    from mmedge.report.record import read_report
    from mmedge.report.standalone import print_quantized
    from mmedge.report.table import print_report

    record = read_report(run / "report.json" if run.is_dir() else run)
    page = (run if run.is_dir() else run.parent) / "report.html"
    write_html(record, page)
    (print_report if "stages" in record else print_quantized)(record)
    click.echo(f"report: {page}", err=True)
    if as_json:
        print_json(record)
