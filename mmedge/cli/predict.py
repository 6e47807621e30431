"""``mmedge predict``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from mmedge.cli.common import bundle_options, framed, print_json, progress
from mmedge.errors import MmedgeError, UsageError

# Of a bundle whose task is retrieval.
TOWER_OPTIONS = ("index", "nearest", "labels", "template", "tower", "stored")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

if TYPE_CHECKING:
    from mmedge.runtime.engine import Engine
    from mmedge.runtime.search import Stored
    from mmedge.tasks import Prediction

# What an option of a modality says: a file or a text, or a row of cells.
CellValue = str | list[str | None] | dict[str, str | None]


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Predict from raw files with a bundle. Each modality of the bundle is an option; one that is left out is missing.\n\n"
    "The cells of a tabular modality are given with commas, an empty one is missing: --vitals 36.6,,female; or by column: --vitals temperature=36.6,sex=female.\n\n"
    "A table, .csv, .tsv, .jsonl or .parquet, is predicted row by row: its columns are those that the bundle was trained on, paths in it"
    " are relative to its folder, and an empty cell is missing. A row that cannot be predicted says why; the exit code is then 1."
    "\n\nOf a bundle of embeddings: a table with --index FOLDER is indexed (--tower says by which, where it has columns of several; --stored int8 or hnsw: how),"
    " and one sample with --index FOLDER is sought in it, the --nearest 5 are told. --labels cat,dog says which of these texts a"
    " sample is nearest to, each in --template 'a picture of a {}'."
    "\n\n\b\nExamples:\n  mmedge predict runs/demo/bundle --image digit.png --audio digit.wav\n  mmedge predict runs/demo/bundle rows.csv --out predictions.csv",
)
@bundle_options
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="For a table: the file to write, .csv or .jsonl; arrays go into a folder beside it, as .npy.  [default: CSV on stdout]"
    " For one sample of which an array is predicted: the .npy file to write.",
)
@click.pass_context
@framed
def predict(ctx: click.Context, out: Path | None, open_engine: Callable[[], Engine], as_json: bool) -> int:
    engine = open_engine()
    if ctx.args and not ctx.args[0].startswith("-") and Path(ctx.args[0]).suffix.lower() in TABLES:
        more = _values(ctx.args[1:], engine)
        asked = _asked(more, engine)
        if more:
            raise UsageError(f"unexpected argument {ctx.args[1]!r}", todo="give one table, or files by modality")
        _refuse_idle(asked, {"index": ("tower", "stored")}, "a table")
        if "index" in asked:
            return _index_table(engine, Path(ctx.args[0]), asked, as_json)
        return _predict_table(engine, Path(ctx.args[0]), out, as_json)
    wide = any(head.shape for head in engine.contract.heads.values())
    if out is not None and not wide:
        raise UsageError("--out belongs to a table", todo="mmedge predict BUNDLE rows.csv --out predictions.csv")
    values = _values(ctx.args, engine)
    asked = _asked(values, engine)
    _refuse_idle(asked, {"index": ("nearest",), "labels": ("template",)}, "one sample")
    if "index" in asked:
        return _search(engine, asked, values, as_json)
    if "labels" in asked:
        labels = [label.strip() for label in asked["labels"].split(",")]
        prediction = engine.classify(labels, asked.get("template"), **values)
    else:
        prediction = engine.predict(**values)
    if out is not None:
        from mmedge.runtime import rows

        for file in rows.write_arrays(prediction, out):
            click.echo(f"written: {file}", err=True)
    record = prediction.record()
    if as_json:
        print_json(record)
    else:
        _show(prediction)
    return 0


def _asked(values: dict[str, CellValue], engine: Engine) -> dict[str, str]:
    """What the options of a bundle of towers say, taken out of ``values``; a modality of such a name is one."""
    own = engine.contract.modalities
    return {name: str(values.pop(name)) for name in TOWER_OPTIONS if name in values and name not in own}


def _refuse_idle(asked: Mapping[str, str], heard: Mapping[str, tuple[str, ...]], given: str) -> None:
    """Raise UsageError for an option that nobody hears. ``heard``: {option: those that only mean something beside it}."""
    told = {option: leader for leader, beside in heard.items() for option in (leader, *beside)}
    for option in asked:
        if told.get(option) not in asked:
            beside = f" without --{told[option]}" if option in told else f" beside {given}"
            raise UsageError(f"--{option} means nothing{beside}", todo="leave it out: mmedge predict --help")


def _search(engine: Engine, asked: Mapping[str, str], values: Mapping[str, CellValue], as_json: bool) -> int:
    """Tell the nearest items of an index."""
    nearest = asked.get("nearest", "5")
    if not nearest.isdecimal():
        raise UsageError(f"--nearest is how many items are sought, not {nearest!r}")
    hits = engine.search(asked["index"], int(nearest), **values)
    if as_json:
        print_json({"hits": [vars(hit) for hit in hits]})
    for hit in () if as_json else hits:
        click.echo(f"{hit.id}\t{hit.score:.4f}")
    return 0


def _index_table(engine: Engine, path: Path, asked: Mapping[str, str], as_json: bool) -> int:
    """Write the index of a table's rows, by the tower that it has columns of."""
    from mmedge.data.rows import read_rows
    from mmedge.runtime import rows

    index, tower, stored = Path(asked["index"]), asked.get("tower"), cast("Stored", asked.get("stored", "float32"))
    folder, read = path.resolve().parent, list(read_rows(path))
    if not read:
        raise MmedgeError("the table has no rows: there is nothing to index", where=str(path))
    absent = rows.absent_from(engine.contract, read[0].cells)
    towers = {name: sees for head in engine.contract.heads.values() for name, sees in head.towers.items()}
    there = [name for name, sees in towers.items() if not set(sees) <= set(absent)]
    if (towers and (tower or there[0]) not in there) or (not tower and len(there) > 1):
        raise UsageError(
            f"the table has columns of the towers {', '.join(there)}" + (f", and none of {tower!r}" if tower else ""),
            todo=f"say which is indexed: --tower {there[0]}",
        )
    sees = towers.get(tower or next(iter(there), ""), ())
    items = [
        {name: value for name, value in rows.sample_of(engine.contract, row.cells, folder).items() if name in sees}
        for row in read
    ]
    ids = [row.cells.get("id") or str(row.number) for row in read]
    found = engine.index(items, index, ids=ids, stored=stored)
    if as_json:
        kept = {} if found.kept is None else {"kept": found.kept}
        print_json({"index": str(index), "tower": found.tower, "items": len(found), **kept})
    else:
        kept_words = "" if found.kept is None else f"; {found.kept:.1%} of the ten nearest are found"
        click.echo(f"written: {index}, {len(found)} items of the tower {found.tower}{kept_words}", err=True)
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
                for name in rows.lacking(engine.contract, row.cells):
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
                files = rows.write_arrays(found, out.with_suffix("") / f"{row.number}.npy") if out else []
                cells = rows.as_cells(found)
                arrays = [name for name in cells if name.endswith("array")] if files else []
                cells |= {name: str(file.relative_to(out.parent)) for name, file in zip(arrays, files) if out}
                write(record, known | cells)
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
    """The likeliest labels, the value or the text, a line each; of several heads with their names before them."""
    for name, of_head in prediction.heads.items():
        _show(of_head, f"{name}\t")
    if prediction.value is not None:
        click.echo(f"{before}{prediction.value:g}")
    for name, value in (prediction.values or {}).items():
        click.echo(f"{before}{name}\t{value:g}")
    if prediction.array is not None or prediction.text is not None:
        click.echo(f"{before}{prediction.words()}")
    for tower, vector in (prediction.embeddings or {}).items():
        click.echo(f"{before}{tower}\t" + " ".join(f"{number:.4f}" for number in vector))
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
