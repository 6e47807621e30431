"""``mmedge init``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmedge.cli.common import framed, print_json
from mmedge.errors import UsageError

# Columns that are told one by one; --json has all of them.
_SHOWN = 60

if TYPE_CHECKING:
    from pydantic import JsonValue

    from mmedge.data.wizard.propose import Proposal


@click.command(
    help="Write a recipe for a manifest of your own: a CSV, JSONL or Parquet table, a row a sample, of paths and values;"
    " or for a folder of class folders, of which the table is written too."
    " It looks at every column, proposes modalities, target and preprocessing, and runs as it is. Rows with holes are kept."
    " Beside it stands recipe.schema.json, by which editors complete and check the recipe."
    "\n\n\b\nExample:\n  mmedge init data/manifest.csv --out my.yaml\n  mmedge init data/pictures --out my.yaml\n  mmedge init --keys distill"
)
@click.argument("manifest", type=click.Path(path_type=Path), required=False)
@click.option("--target", help="The column to predict.  [default: the one that looks like it]")
@click.option("--task", help="What the target means.  [default: what its cells look like]")
@click.option("--group", help="A column whose equal rows stay in one split: a speaker, a patient.")
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
@click.option("--schema", is_flag=True, help="Print the recipe's JSON Schema, for editors; write nothing.")
@framed
def init(
    manifest: Path | None,
    target: str | None,
    task: str | None,
    group: str | None,
    streams: tuple[Path, ...],
    out: Path,
    code: bool,
    force: bool,
    keys: str | None,
    schema: bool,
    as_json: bool,
) -> None:
    if schema:
        from mmedge.recipe import reference

        print_json(reference.schema())
        return
    if keys is not None:
        _show_keys(keys, as_json)
        return
    if manifest is None:
        raise UsageError(
            "a manifest is missing: the table that the recipe is for", todo="mmedge init data/manifest.csv"
        )
    from mmedge.data.wizard.propose import Wishes, propose

    _check_task(task)
    module = _module_beside(out) if code else None
    table = out.with_suffix(".csv") if manifest.is_dir() else None
    for file in (out, module, table):
        if file and file.exists() and not force:
            raise UsageError("the file is already there", where=str(file), todo="choose another --out, or say --force")
    if table:
        from mmedge.data.wizard.folders import write_table_of

        click.echo(f"{write_table_of(manifest, table)} files in class folders: {table}", err=True)
    proposal = propose(table or manifest, Wishes(target, task, group, streams))
    _write(proposal, out, module)
    for column in proposal.columns[:_SHOWN]:
        click.echo(f"{column.name}: {column.role}, {column.why}", err=True)
    more = Counter(column.role for column in proposal.columns[_SHOWN:])
    if more:
        counts = ", ".join(f"{count} {role}" for role, count in more.most_common())
        click.echo(f"{more.total()} more columns: {counts}; --json lists all", err=True)
    files = ", ".join(str(file) for file in (out, module) if file)
    click.echo(
        f"wrote {files}, and recipe.schema.json for editors\nnext: mmedge check {out} && mmedge run {out}", err=True
    )
    if as_json:
        print_json(_record(proposal, out, module))


def _check_task(task: str | None) -> None:
    from mmedge.errors import did_you_mean
    from mmedge.tasks import TASKS

    if task is not None and task not in TASKS:
        raise UsageError(f"there is no task {task!r}{did_you_mean(task, TASKS)}", todo=f"use one of {', '.join(TASKS)}")


def _module_beside(out: Path) -> Path:
    module = out.with_name(f"{out.stem.replace('-', '_')}_code.py")
    if not module.stem.isidentifier():
        raise UsageError(f"{module.stem!r} is no name of a Python module", todo="choose another --out")
    return module


def _write(proposal: Proposal, out: Path, module: Path | None) -> None:
    from mmedge.artifact import replacing, write_json
    from mmedge.data.wizard.draft import code_text, recipe_text
    from mmedge.recipe import load
    from mmedge.recipe.reference import SCHEMA_FILE, schema

    write_json(out.with_name(SCHEMA_FILE), schema())
    texts = {out: recipe_text(proposal, out, module.stem if module else None)}
    if module:
        texts[module] = code_text(proposal, out)
    for file, text in texts.items():
        with replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    load(out)  # what it writes is a valid recipe, or this says why


def _record(proposal: Proposal, out: Path, module: Path | None) -> dict[str, JsonValue]:
    from mmedge.data.wizard.propose import keys_of

    return {
        "recipe": str(out),
        "code": str(module) if module else None,
        "rows": proposal.rows,
        "target": proposal.target,
        "task": proposal.task,
        "columns": {column.name: {"role": column.role, "why": column.why} for column in proposal.columns},
        "modalities": {name: keys_of(spec) for name, spec in proposal.modalities.items()},
    }


def _show_keys(within: str, as_json: bool) -> None:
    from dataclasses import asdict

    from mmedge.recipe.reference import sections

    found = sections(within)
    if as_json:
        print_json({"sections": [asdict(section) for section in found]})
        return
    for section in found:
        click.echo(click.style(section.path or "recipe", bold=True))
        click.echo(click.wrap_text(section.text, 100, "  ", "  "))
        if section.like is not None:
            click.echo(f"  keys as those of {section.like}")
        for key in section.keys:
            click.echo(f"    {key.name}: {key.takes}  [{key.default}]")
            click.echo(click.wrap_text(key.meaning, 100, "        ", "        "))
        click.echo()
