"""``mmedge check``."""

from __future__ import annotations

from pathlib import Path

import click

from mmedge.cli.common import code_option, framed, out_option, print_json, progress, set_option


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
    with progress() as display:
        from mmedge.pipeline.check import check as look

        card = look(
            loaded,
            out or Path("runs") / loaded.name,
            code=recipe.resolve().parent,
            progress=display,
            media=not no_media,
        )
    card = card.with_faults(wrong)
    if as_json:
        print_json(card.record())
    for line in card.lines():
        click.echo(line, err=True)
    if wrong or any(fault.kind in ("missing-column", "gate") for fault in card.faults):
        return 2  # the recipe itself names what is not there
    return 1 if card.errors else 0
