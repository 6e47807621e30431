"""``mmedge report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmedge.cli.common import framed, print_json
from mmedge.errors import UsageError

if TYPE_CHECKING:  # a schema waits for none of it
    from mmedge.report.quantized_file import FileReport
    from mmedge.report.schema import Report


@click.command(
    help="Draw report.html from the report.json of a run, or of a quantized ONNX file, and print its table; of several runs,"
    " compare them with the first, and draw comparison.html beside the last."
    "\n\n\b\nExamples:\n  mmedge report runs/demo\n  mmedge report runs/before runs/after --format md > comment.md"
)
@click.argument("runs", metavar="[RUN]...", type=click.Path(path_type=Path), nargs=-1)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md"]),
    default="table",
    help="md: Markdown on stdout, for a pull request; no page is drawn.",
)
@click.option(
    "--schema",
    type=click.Choice(["report", "file", "manifest"]),
    is_flag=False,
    flag_value="report",
    metavar="[report|file|manifest]",
    help="Print the JSON Schema of a run's report.json, of a quantized ONNX file's, or of manifest.json; draw nothing.",
)
@framed
def report(runs: tuple[Path, ...], form: str, schema: str | None, as_json: bool) -> None:
    if schema is not None:
        _print_schema(schema)
        return
    if not runs:
        raise UsageError("a run is missing: the folder with its report.json", todo="mmedge report --help")
    if form == "md" and as_json:
        raise UsageError("--json and --format md exclude each other: both write to stdout")
    from mmedge.report.record import read_report

    files = [run / "report.json" if run.is_dir() else run for run in runs]
    found = [read_report(file) for file in files]
    if len(found) == 1:
        _one(found[0], files[0].parent, form, as_json)
    else:
        _several(found, files, form, as_json)


def _print_schema(name: str) -> None:
    from mmedge.frozen import Record
    from mmedge.report.quantized_file import FileReport
    from mmedge.report.schema import Report
    from mmedge.stages.results import Manifest

    models: dict[str, type[Record]] = {"report": Report, "file": FileReport, "manifest": Manifest}
    print_json(models[name].model_json_schema(by_alias=True))


def _one(found: Report | FileReport, folder: Path, form: str, as_json: bool) -> None:
    from mmedge.report.quantized_file import FileReport

    if form == "md":
        from mmedge.report.compared import markdown

        if isinstance(found, FileReport):
            raise UsageError("--format md is of runs; this is the report of a quantized file", where=str(folder))
        click.echo(markdown(found), nl=False)
        return
    from mmedge.report.html import write_html
    from mmedge.report.standalone import print_quantized
    from mmedge.report.table import print_report

    write_html(found, folder / "report.html")
    if isinstance(found, FileReport):
        print_quantized(found)
    else:
        print_report(found)
    click.echo(f"report: {folder / 'report.html'}", err=True)
    if as_json:
        print_json(found.record())


def _several(found: list[Report | FileReport], files: list[Path], form: str, as_json: bool) -> None:
    from mmedge.report.compared import compare, comparison_markdown, print_comparison
    from mmedge.report.quantized_file import FileReport

    of_files = [file for one, file in zip(found, files) if isinstance(one, FileReport)]
    if of_files:
        raise UsageError("runs are compared; this is the report of a quantized file", where=str(of_files[0]))
    reports = [one for one in found if not isinstance(one, FileReport)]
    comparison = compare(list(zip(_names(files), reports)))
    if form == "md":
        click.echo(comparison_markdown(comparison), nl=False)
        return
    from mmedge.report.html import write_comparison

    page = files[-1].parent / "comparison.html"
    write_comparison(comparison, page)
    print_comparison(comparison)
    click.echo(f"comparison: {page}", err=True)
    if as_json:
        print_json(comparison.record())


def _names(files: list[Path]) -> list[str]:
    """Each run's folder, by as many of its last names as tell all of them apart; a run that is named twice has a number."""
    folders = [file.resolve().parent for file in files]
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            break
    return [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]
