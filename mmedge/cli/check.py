"""``mmedge check``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from mmedge.cli.common import code_option, framed, out_option, print_json, progress, set_option

# Findings of one kind that are shown in full; --json has all of them.
_SHOWN = 10


@click.command(
    help="Look at a recipe's data and models before anything is trained: all faults at once, and a data card."
    " The exit code is 1 where there are errors, 2 where the recipe is invalid; warnings are for you to judge."
    "\n\n\b\nExample:\n  mmedge check recipes/avdigits.yaml"
)
@click.argument("recipe", type=click.Path(path_type=Path))
@out_option()
@set_option
@code_option
@click.option("--no-media", is_flag=True, help="Look at the table alone; open no file that it names.")
@framed
def check(recipe: Path, out: Path | None, overrides: tuple[str, ...], no_media: bool, as_json: bool) -> int:
    from mmedge.errors import Fault
    from mmedge.recipe import InvalidRecipe, load

    wrong: list[Fault] = []
    try:
        loaded = load(recipe, overrides)
    except InvalidRecipe as error:
        if error.rest is None:
            raise
        todo = "correct it; all else was looked at without this key"
        loaded, wrong = error.rest, [Fault("error", "recipe", line, todo=todo) for line in error.lines]
    with progress() as shown:
        from mmedge.pipeline.check import check as look

        card = look(
            loaded, out or Path("runs") / loaded.name, code=recipe.resolve().parent, progress=shown, media=not no_media
        )
    card["faults"] = [*(fault.record() for fault in wrong), *card["faults"]]
    card["errors"] += len(wrong)
    if as_json:
        print_json(card)
    _show(card)
    if wrong or any(fault["kind"] == "missing-column" for fault in card["faults"]):
        return 2  # the recipe itself names what is not there
    return 1 if card["errors"] else 0


def _show(card: dict[str, Any]) -> None:
    for split, counts in card.get("splits", {}).items():
        click.echo(f"{split}: " + ", ".join(f"{name} {_said(value)}" for name, value in counts.items()), err=True)
    for name, shape in card["modalities"].items():
        facts = card.get("media", {}).get(name, {})
        click.echo(f"{name}: {shape}" + "".join(f", {key} {_said(value)}" for key, value in facts.items()), err=True)
    told: Counter[tuple[str, str]] = Counter()
    for fault in card["faults"]:
        kind = (fault["severity"], fault["kind"])
        told[kind] += 1
        if told[kind] > _SHOWN:
            continue
        row = f"row {fault['row']}" if "row" in fault else None
        column = f"column {fault['column']}" if "column" in fault else None
        where = ", ".join(part for part in (fault.get("module"), fault.get("file"), row, column) if part)
        lines: list[str | None] = [
            f"{fault['severity']}: {fault['what']}",
            where and f"  at: {where}",
            fault.get("todo") and f"  do: {fault['todo']}",
        ]
        click.echo("\n".join(line for line in lines if line), err=True)
    for (severity, name), count in told.items():
        if count > _SHOWN:
            click.echo(f"{severity}: {count - _SHOWN} more of the kind {name}; --json lists all", err=True)
    click.echo(
        f"{card['errors']} errors, {card['warnings']} warnings" if card["faults"] else "no fault found", err=True
    )


def _said(value: Any) -> str:
    return (
        "{" + ", ".join(f"{k}: {_said(v)}" for k, v in value.items()) + "}" if isinstance(value, dict) else str(value)
    )
