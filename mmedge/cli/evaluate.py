"""``mmedge evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mmedge.cli.common import framed, print_json, progress


@click.command(
    help="Judge a bundle by a table of labelled samples: its metric with the 95 % interval, of every subset of modalities too."
    " Rows are answered one at a time, as an app asks; paths are relative to the table's folder, an empty cell is missing."
    " A row that cannot be answered is told and not judged; the exit code is then 1."
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
        print_json(found)
    _show(found)
    return 1 if found["wrong"] else 0


def _show(found: dict[str, Any]) -> None:
    whole = found["quality"]
    low, high = whole["ci95"]
    click.echo(f"{whole['metric']} {whole['value']:.3f} [{low:.3f}, {high:.3f}] of {whole['n']} rows", err=True)
    for kind in ("heads", "subsets"):
        for name, figure in found.get(kind, {}).items():
            value = f"{figure['value']:.3f}" if "value" in figure else "not measured"
            interval = " [{:.3f}, {:.3f}]".format(*figure["ci95"]) if "ci95" in figure else ""
            click.echo(f"  {name} {value}{interval} of {figure['n']} rows", err=True)
    for note in found["notes"]:
        click.echo(note, err=True)
