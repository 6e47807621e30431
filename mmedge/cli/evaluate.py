"""``mmedge evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmedge.cli.common import bundle_options, framed, print_json, progress

if TYPE_CHECKING:
    from mmedge.runtime.engine import Engine


@click.command(
    help="Judge a bundle by a table of labelled samples: its metric with the 95 % interval, of every subset of modalities too."
    " Rows are predicted one at a time, as an app asks; paths are relative to the table's folder, an empty cell is missing."
    " A row that cannot be predicted is told and not judged; the exit code is then 1."
    "\n\n\b\nExamples:\n  mmedge evaluate runs/demo/bundle rows.csv\n  mmedge evaluate runs/demo/bundle rows.csv --truth mood --group speaker --json"
)
@bundle_options
@click.argument("table", type=click.Path(path_type=Path))
@click.option(
    "--truth",
    "truths",
    multiple=True,
    metavar="COLUMN",
    help="The column that says what is right; HEAD=COLUMN where there are several heads.  [default: label, or each head's name]",
)
@click.option(
    "--group", help="The column of the independent unit that intervals draw again.  [default: group, if there]"
)
@framed
def evaluate(
    table: Path, truths: tuple[str, ...], group: str | None, open_engine: Callable[[], Engine], as_json: bool
) -> int:
    engine = open_engine()
    with progress() as display:
        from mmedge.pipeline.evaluating import evaluate as judged

        found = judged(engine, table, truths, group, display)
    if as_json:
        print_json(found.record())
    for line in found.lines():
        click.echo(line, err=True)
    return 1 if found.wrong else 0
