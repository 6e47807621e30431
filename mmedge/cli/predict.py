"""``mmedge predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mmedge.cli.common import framed, print_json
from mmedge.errors import UsageError


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Predict from raw files with a bundle. Each modality of the bundle is an option; one that is left out is missing.\n\n"
    "The cells of a tabular modality are given with commas, an empty one is missing: --vitals 36.6,,female; or by column: --vitals temperature=36.6,sex=female.\n\n\b\nExample:\n  mmedge predict runs/demo/bundle --image digit.png --audio digit.wav",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", help="One of the bundle's engines.  [default: onnxruntime-cpu]")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--require-signature",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="The public key (PEM) that must have signed the bundle; without its signature nothing is loaded.",
)
@click.pass_context
@framed
def predict(
    ctx: click.Context, bundle: Path, target: str | None, threads: int, require_signature: Path | None, as_json: bool
) -> None:
    from mmedge import runtime

    engine = runtime.load(bundle, target, threads, require_signature=require_signature)
    prediction = engine.predict(**_values(ctx.args, engine))
    record = prediction.record()
    if as_json:
        print_json(record)
    elif prediction.value is not None:
        click.echo(f"{prediction.value:g}")
    else:
        for label, p in sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:5]:
            click.echo(f"{label}\t{p:.4f}")


def _values(arguments: list[str], engine: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if not option.startswith("--"):
            raise UsageError(
                f"unexpected argument {option!r}",
                todo=f"give files by modality: {' '.join(f'--{name} FILE' for name in engine.contract.modalities)}",
            )
        if not equals:
            if not rest:
                raise UsageError(f"{option} wants a value")
            value = rest.pop(0)
        name = option.removeprefix("--").replace("-", "_")
        if name in values:
            raise UsageError(f"--{name} is given twice", todo="predict answers for one sample: one value a modality")
        spec = engine.contract.modalities.get(name)
        values[name] = _cells(value, spec.columns_read) if spec is not None and spec.kind == "tabular" else value
    return values


def _cells(value: str, columns: tuple[str, ...]) -> list[str | None] | dict[str, str | None]:
    """A row of cells with commas: in the columns' order, or each as ``column=cell``; what is empty or not named is missing."""
    cells = [cell.strip() for cell in value.split(",")]
    named = {column.strip(): cell.strip() for column, equals, cell in (c.partition("=") for c in cells) if equals}
    if len(named) == len(cells) and named.keys() <= set(columns):
        return {column: named.get(column) or None for column in columns}
    return [cell or None for cell in cells]
