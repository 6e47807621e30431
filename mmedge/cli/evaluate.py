"""``mmedge evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from mmedge.cli.common import framed, print_json, progress


@click.command(
    help="Judge a bundle by a table of labelled samples: its metric with the 95 % interval, of every subset of modalities too."
    " Rows are predicted one at a time, as an app asks; paths are relative to the table's folder, an empty cell is missing."
    " A row that cannot be predicted is told and not judged; the exit code is then 1."
    "\n\n\b\nExamples:\n  mmedge evaluate runs/demo/bundle rows.csv\n  mmedge evaluate runs/demo/bundle rows.csv --truth mood --group speaker --json"
)
@click.argument("bundle", type=click.Path(path_type=Path))
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
@click.option("--target", help="One of the bundle's engines.  [default: onnxruntime-cpu]")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--require-signature",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="The public key (PEM) that must have signed the bundle; without its signature nothing is loaded.",
)
@framed
def evaluate(
    bundle: Path,
    table: Path,
    truths: tuple[str, ...],
    group: str | None,
    target: str | None,
    threads: int,
    require_signature: Path | None,
    as_json: bool,
) -> int:
    from mmedge import runtime

    engine = runtime.load(bundle, target, threads, require_signature=require_signature)
    with progress() as shown:
        from mmedge.pipeline.evaluating import evaluate as judged

        found = judged(engine, table, truths, group, shown)
    if as_json:
        print_json(found.record())
    for line in found.lines():
        click.echo(line, err=True)
    return 1 if found.wrong else 0
