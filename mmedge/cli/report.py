"""``mmedge report``."""

from __future__ import annotations

from pathlib import Path

import click

from mmedge.cli.common import framed, print_json
from mmedge.errors import UsageError


@click.command(
    help="Draw report.html from the report.json of a run, or of a quantized ONNX file, and print its table.\n\n\b\nExample:\n  mmedge report runs/demo"
)
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option(
    "--schema",
    type=click.Choice(["report", "file", "manifest"]),
    is_flag=False,
    flag_value="report",
    metavar="[report|file|manifest]",
    help="Print the JSON Schema of a run's report.json, of a quantized ONNX file's, or of manifest.json; draw nothing.",
)
@framed
def report(run: Path | None, schema: str | None, as_json: bool) -> None:
    if schema is not None:
        from mmedge.frozen import Record
        from mmedge.report.schema import FileReport, Report
        from mmedge.stages.results import Manifest

        models: dict[str, type[Record]] = {"report": Report, "file": FileReport, "manifest": Manifest}
        print_json(models[schema].model_json_schema(by_alias=True))
        return
    if run is None:
        raise UsageError("a run is missing: the folder with its report.json", todo="mmedge report --help")
    from mmedge.report.html import write_html
    from mmedge.report.record import read_report
    from mmedge.report.schema import FileReport
    from mmedge.report.standalone import print_quantized
    from mmedge.report.table import print_report

    found = read_report(run / "report.json" if run.is_dir() else run)
    page = (run if run.is_dir() else run.parent) / "report.html"
    write_html(found, page)
    if isinstance(found, FileReport):
        print_quantized(found)
    else:
        print_report(found)
    click.echo(f"report: {page}", err=True)
    if as_json:
        print_json(found.record())
