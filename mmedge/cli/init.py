"""``mmedge init``."""

from __future__ import annotations

from pathlib import Path

import click

from mmedge.cli.common import framed, print_json
from mmedge.errors import UsageError


@click.command(
    help="Write a recipe for a manifest of your own: a CSV, JSONL or Parquet table, a row a sample, of paths and values."
    " It looks at every column, proposes modalities, target and preprocessing, and runs as it is. Rows with holes are kept."
    "\n\n\b\nExample:\n  mmedge init data/manifest.csv --out my.yaml\n  mmedge init --keys distill"
)
@click.argument("manifest", type=click.Path(path_type=Path), required=False)
@click.option("--target", help="The column to predict.  [default: the one that looks like it]")
@click.option(
    "--stream",
    "streams",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A table with times of its own, whose columns are joined to the manifest's rows by time. Repeatable.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("my.yaml"),
    show_default=True,
    help="The recipe to write.",
)
@click.option("--code", is_flag=True, help="Also write a module beside it, for a network or a dataset of your own.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@click.option(
    "--keys",
    is_flag=False,
    flag_value="",
    metavar="[SECTION]",
    help="Tell every key that a recipe may have, or those of a section, with types, defaults and meaning; write nothing.",
)
@framed
def init(
    manifest: Path | None,
    target: str | None,
    streams: tuple[Path, ...],
    out: Path,
    code: bool,
    force: bool,
    keys: str | None,
    as_json: bool,
) -> None:
    if keys is not None:
        _tell_keys(keys, as_json)
        return
    if manifest is None:
        raise UsageError(
            "a manifest is missing: the table that the recipe is for", todo="mmedge init data/manifest.csv"
        )
    from mmedge.artifact import replacing
    from mmedge.data.wizard.draft import code_text, recipe_text
    from mmedge.data.wizard.propose import propose
    from mmedge.recipe import load

    module = out.with_name(f"{out.stem.replace('-', '_')}_code.py") if code else None
    if module and not module.stem.isidentifier():
        raise UsageError(f"{module.stem!r} is no name of a Python module", todo="choose another --out")
    for file in (out, module):
        if file and file.exists() and not force:
            raise UsageError("the file is already there", where=str(file), todo="choose another --out, or say --force")
    proposal = propose(manifest, target, streams)
    texts = {out: recipe_text(proposal, out, module.stem if module else None)}
    if module:
        texts[module] = code_text(proposal, out)
    for file, text in texts.items():
        with replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    load(out)  # what it writes is a valid recipe, or this says why
    for column in proposal.columns:
        click.echo(f"{column.name}: {column.role}, {column.why}", err=True)
    click.echo(f"wrote {', '.join(map(str, texts))}\nnext: mmedge check {out} && mmedge run {out}", err=True)
    if as_json:
        columns = {column.name: {"role": column.role, "why": column.why} for column in proposal.columns}
        print_json(
            {
                "recipe": str(out),
                "code": module and str(module),
                "rows": proposal.rows,
                "target": proposal.target,
                "task": proposal.task,
                "columns": columns,
                "modalities": proposal.modalities,
            }
        )


def _tell_keys(within: str, as_json: bool) -> None:
    from dataclasses import asdict

    from mmedge.recipe.reference import sections

    found = sections(within)
    if as_json:
        print_json({"sections": [asdict(section) for section in found]})
        return
    for section in found:
        click.echo(click.style(section.path or "recipe", bold=True))
        click.echo("".join(f"  {line}\n" for line in section.text.splitlines()), nl=False)
        if section.like is not None:
            click.echo(f"  keys as those of {section.like}")
        for name, takes, default in section.keys:
            click.echo(f"    {name}: {takes}  [{default}]")
        click.echo()
