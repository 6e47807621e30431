"""``mmedge check``."""

from __future__ import annotations

from pathlib import Path

import click

from mmedge.cli.common import framed, out_option, print_json, progress


@click.command(
    help="Look at a recipe's data and models before anything is trained, and print a data card."
    "\n\n\b\nExample:\n  mmedge check recipes/avdigits.yaml"
)
@click.argument("recipe", type=click.Path(path_type=Path))
@out_option()
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key. Repeatable.")
@framed
def check(recipe: Path, out: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    from mmedge.recipe import load

    loaded = load(recipe, overrides)
    with progress() as shown:
        from mmedge.check import check as look

        card = look(loaded, out or Path("runs") / loaded.name, code=recipe.resolve().parent, progress=shown)
    if as_json:
        print_json(card)
        return
    for split, counts in card["splits"].items():
        click.echo(f"{split}: " + ", ".join(f"{name} {value}" for name, value in counts.items()), err=True)
    click.echo("no fault found", err=True)
