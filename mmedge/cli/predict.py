"""``mmedge predict``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmedge.cli.common import bundle_options, framed, print_json, progress
from mmedge.errors import MmedgeError, UsageError

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

if TYPE_CHECKING:
    from mmedge.runtime.engine import Engine
    from mmedge.tasks import Prediction

# What an option of a modality says: a file or a text, or a row of cells.
CellValue = str | list[str | None] | dict[str, str | None]


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Predict from raw files with a bundle. Each modality of the bundle is an option; one that is left out is missing.\n\n"
    "The cells of a tabular modality are given with commas, an empty one is missing: --vitals 36.6,,female; or by column: --vitals temperature=36.6,sex=female.\n\n"
    "A table, .csv, .tsv, .jsonl or .parquet, is predicted row by row: its columns are those that the bundle was trained on, paths in it"
    " are relative to its folder, and an empty cell is missing. A row that cannot be predicted says why; the exit code is then 1."
    "\n\n\b\nExamples:\n  mmedge predict runs/demo/bundle --image digit.png --audio digit.wav\n  mmedge predict runs/demo/bundle rows.csv --out predictions.csv",
)
@bundle_options
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="For a table: the file to write, .csv or .jsonl.  [default: CSV on stdout]",
)
@click.pass_context
@framed
def predict(ctx: click.Context, out: Path | None, open_engine: Callable[[], Engine], as_json: bool) -> int:
    engine = open_engine()
    if ctx.args and not ctx.args[0].startswith("-") and Path(ctx.args[0]).suffix.lower() in TABLES:
        if len(ctx.args) > 1:
            raise UsageError(f"unexpected argument {ctx.args[1]!r}", todo="give one table, or files by modality")
        return _predict_table(engine, Path(ctx.args[0]), out, as_json)
    if out is not None:
        raise UsageError("--out belongs to a table", todo="mmedge predict BUNDLE rows.csv --out predictions.csv")
    prediction = engine.predict(**_values(ctx.args, engine))
    record = prediction.record()
    if as_json:
        print_json(record)
    else:
        _show(prediction)
    return 0


def _predict_table(engine: Engine, path: Path, out: Path | None, as_json: bool) -> int:
    """Predict a table row by row; 1 where a row could not be predicted."""
    from mmedge.data.rows import read_rows
    from mmedge.runtime import rows

    records: list[Mapping[str, object]] = []
    folder, wrong, total, has_id = path.resolve().parent, 0, 0, False
    for row in read_rows(path):  # a table that cannot be read to its end is told before anything is written
        total, has_id = total + 1, "id" in row.cells
    names = ["row", *(["id"] if has_id else []), *rows.cell_names(engine.contract), "error"]
    with progress() as display, _writer(out, as_json, names) as write:
        for row in read_rows(path):
            if row.number == 1:
                for name in rows.absent_from(engine.contract, row.cells):
                    display.say(f"predict: the table has no column of {name}, which is missing in every row")
            found = rows.predicted(engine, row, folder)
            known: dict[str, object] = {"row": row.number, **({"id": row.cells["id"]} if "id" in row.cells else {})}
            if isinstance(found, MmedgeError):
                wrong += 1
                record = known | {"error": " ".join(str(found).split())}
                write(record, record)
                display.say(f"predict: {row.where}: {found.what}")
            else:
                record = known | found.record()
                write(record, known | rows.as_cells(found))
            records += [record] if as_json else []
            display.step("predict", row.number, total)
    if as_json:
        print_json({"rows": records, "wrong": wrong})
    if wrong:
        click.echo(f"error: {wrong} of {total} rows could not be predicted", err=True)
    elif out:
        click.echo(f"written: {out}", err=True)
    return 1 if wrong else 0


@contextmanager
def _writer(
    out: Path | None, as_json: bool, names: list[str]
) -> Iterator[Callable[[Mapping[str, object], Mapping[str, object]], None]]:
    """``write(record, cells)`` of each row, as JSONL or CSV: into ``out``, else on stdout, which --json has for itself."""
    from mmedge import artifact

    with ExitStack() as held:
        if out is not None:
            place = held.enter_context(artifact.replacing(out))
            stream: Any = held.enter_context(place.open("w", encoding="utf-8", newline=""))
        elif as_json:
            yield lambda record, cells: None
            return
        else:
            stream = sys.stdout
        if out is not None and out.suffix.lower() in (".jsonl", ".ndjson"):
            yield lambda record, cells: print(json.dumps(record, ensure_ascii=False), file=stream)
            return
        table = csv.DictWriter(stream, names)
        table.writeheader()
        yield lambda record, cells: table.writerow(cells)


def _show(prediction: Prediction, before: str = "") -> None:
    """The likeliest labels or the value, a line each; of several heads with their names before them."""
    for name, of_head in prediction.heads.items():
        _show(of_head, f"{name}\t")
    if prediction.value is not None:
        click.echo(f"{before}{prediction.value:g}")
    for label, p in sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:5]:
        click.echo(f"{before}{label}\t{p:.4f}")


def _values(arguments: list[str], engine: Engine) -> dict[str, CellValue]:
    values: dict[str, CellValue] = {}
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
            raise UsageError(f"--{name} is given twice", todo="predict takes one sample: one value a modality")
        spec = engine.contract.modalities.get(name)
        values[name] = _cells(value, spec.columns_read) if spec is not None and spec.kind == "tabular" else value
    return values


def _cells(value: str, columns: tuple[str, ...]) -> CellValue:
    """A row of cells with commas: in the columns' order, or each as ``column=cell``; what is empty or not named is missing."""
    cells = [cell.strip() for cell in value.split(",")]
    named = {column.strip(): cell.strip() for column, equals, cell in (c.partition("=") for c in cells) if equals}
    if len(named) == len(cells) and named.keys() <= set(columns):
        return {column: named.get(column) or None for column in columns}
    return [cell or None for cell in cells]
