"""A user's table, read by polars, and what is wrong with it as a file: told with its row, where there is one."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import sys
from collections import Counter
from pathlib import Path

import polars

from mmedge.data.manifest import shards
from mmedge.data.rows import object_of
from mmedge.errors import MmedgeError, brief, first_line

# Tables that people have, and mmedge does not read.
_FOREIGN = {".xlsx", ".xls", ".ods", ".json", ".feather", ".arrow", ".pkl", ".pickle", ".zip", ".gz", ".db", ".sqlite"}


_WIDEST = 20_000


def read_table(path: Path) -> polars.DataFrame:
    """A CSV, TSV, JSONL or Parquet manifest, or tar shards, as a table of strings; empty cells and NaN are null, lists are JSON."""
    if (of_shards := shards.read(path)) is not None:
        return of_shards.table
    table = read_columns(path, "manifest")
    strings: dict[str, polars.Series] = {}
    for name, kind in table.schema.items():
        if kind == polars.String:
            continue
        try:
            strings[name] = _as_strings(table[name])
        except (polars.exceptions.PolarsError, TypeError, ValueError) as error:
            held = _WHAT_CELLS_ARE.get(type(kind), (f"of the type {kind}", "save them as texts or numbers"))
            raise MmedgeError(
                f"the cells of a manifest are texts, numbers and paths, and those of {name!r} are {held[0]}",
                where=f"{path}, column {name}",
                todo=held[1],
            ) from error
    if strings:
        table = table.with_columns(**strings)
    return table.with_columns(polars.when(polars.all() != "").then(polars.all()))


# What a column's cells are that are no cells of a manifest, and what to do about it.
_WHAT_CELLS_ARE: dict[type, tuple[str, str]] = {
    polars.Struct: ("objects", "give each of their values a column of its own, or save a series as a .npy file"),
    polars.List: ("lists of objects", "give each of their values a column of its own, or save a series as a .npy file"),
    polars.Binary: ("bytes", "save each as a file and give its path"),
    polars.Duration: ("durations", "give them as numbers, of seconds say"),
}


def _as_strings(cells: polars.Series) -> polars.Series:
    """A column's cells as strings; raises TypeError, ValueError or PolarsError for what is no text, number or list of them."""
    kind = cells.dtype
    if isinstance(kind, (polars.List, polars.Array)):
        inner = kind.inner
        while isinstance(inner, (polars.List, polars.Array)):
            inner = inner.inner
        if isinstance(inner, (polars.Struct, polars.Binary, polars.Duration)):
            raise TypeError(f"lists of {inner}")
        texts = [
            None if cell is None else json.dumps(cell, ensure_ascii=False, default=str) for cell in cells.to_list()
        ]
        return polars.Series(cells.name, texts, polars.String)
    if isinstance(kind, (polars.Struct, polars.Binary, polars.Duration)):
        raise TypeError(str(kind))
    return (cells.fill_nan(None) if kind.is_float() else cells).cast(polars.String)


def read_columns(path: Path, what: str) -> polars.DataFrame:
    """A CSV, TSV, JSONL or Parquet file with a row or more, its cells as they are there. ``what`` it is, for the errors."""
    ending = path.suffix.lower()
    if not os.path.isfile(path):
        state = "is a folder" if path.is_dir() else "does not exist"
        raise MmedgeError(f"the {what} {state}", where=str(path), todo="correct data.manifest")
    if ending in _FOREIGN:
        raise MmedgeError(
            f"the {what} is a {ending} file, which is not read",
            where=str(path),
            todo="save it as CSV, JSONL or Parquet",
        )
    separator = "\t" if ending == ".tsv" else ","
    lines = 0
    try:
        match ending:
            case ".parquet":
                table = polars.read_parquet(path)
            case ".jsonl" | ".ndjson":
                table = _read_lines(path)
            case _:
                lines = _check_rows(path, what, separator)
                table = polars.read_csv(path, infer_schema=False, separator=separator)
    except (polars.exceptions.PolarsError, OSError, ValueError, RecursionError) as error:
        if ending in (".jsonl", ".ndjson"):
            _check_lines(path, what)
        raise MmedgeError(
            f"the {what} cannot be read: {brief(first_line(error), quoted=False)}",
            where=str(path),
            todo="save it as UTF-8" if "utf-8" in str(error) else "save it again as CSV, JSONL or Parquet",
        ) from error
    _check_width(table.columns, what, path)
    if table.is_empty() and lines:
        raise MmedgeError(
            f"the {what}'s lines end in a carriage return alone", where=str(path), todo="save it with LF line ends"
        )
    if table.is_empty():
        raise MmedgeError(f"the {what} has no rows", where=str(path), todo="write a row a sample below the header")
    return table


def _read_lines(path: Path) -> polars.DataFrame:
    """A JSONL file; polars refuses NaN, which Python's json writes: such a cell is empty."""
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            _check_names(line, f"{path}, row {number}")
    try:
        return polars.read_ndjson(path, infer_schema_length=None)
    except polars.exceptions.PolarsError:
        with path.open(encoding="utf-8") as stream:
            text = stream.read()
        if not _NAN.search(text):
            raise
        rows = [json.loads(line, parse_constant=_CONSTANTS.get) for line in text.splitlines() if line.strip()]
        return polars.DataFrame(rows, infer_schema_length=None, strict=False)


def _check_names(line: str, where: str) -> None:
    """Raise for a line that Python's json or polars cannot survive, and for a name that stands twice: polars takes one."""
    if _DEEP.search(line):
        raise MmedgeError("the line nests too deep to be read", where=where, todo="give values, no trees")
    try:
        json.loads(line, object_pairs_hook=object_of)
    except json.JSONDecodeError:
        return  # polars says so, too, and skips an empty line
    except ValueError as error:
        raise MmedgeError(f"the line cannot be read: {error}", where=where, todo="rename one of them") from error


# Lists or objects that open in one another, a dozen deep: polars and Python's json take minutes for some hundred, or crash.
_DEEP = re.compile(r'(?:[\[{]\s*(?:"[^"\\]*"\s*:\s*)?){12}')
_NAN = re.compile(r"\b(?:NaN|Infinity)\b")
_CONSTANTS = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}


def _check_width(columns: list[str], what: str, path: Path) -> None:
    if len(columns) > _WIDEST:
        raise MmedgeError(
            f"the {what} has {len(columns)} columns, and at most {_WIDEST} are read: a recipe names each that it uses",
            where=str(path),
            todo="save each sample's numbers as a .npy file, and give its path in one column",
        )


def _check_rows(path: Path, what: str, separator: str) -> int:
    """Raise for what polars forgives, or refuses without a place; the number of rows."""
    limit = csv.field_size_limit(sys.maxsize)
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, delimiter=separator, strict=True)
            header = next(rows, [])
            _check_width(header, what, path)
            other = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
            if other:
                raise MmedgeError(
                    f"the {what}'s columns are separated by {other!r}", where=str(path), todo="save it with commas"
                )
            twice = next((name for name, count in Counter(header).items() if name and count > 1), None)
            if twice:
                raise MmedgeError(
                    f"two columns of the {what} are called {twice!r}", where=str(path), todo="rename one of them"
                )
            for number, row in enumerate(rows, 1):
                if row and len(row) != len(header):
                    raise MmedgeError(
                        f"the row has {len(row)} cells, and the header {len(header)}",
                        where=f"{path}, row {number}",
                        todo="fill it up with empty cells, or quote a cell that holds a comma",
                    )
    except csv.Error as error:
        raise MmedgeError(
            f"the row cannot be read: {error}",
            where=f"{path}, row {number + 1}",
            todo="close its quotes; a quote inside a quoted cell is written twice",
        ) from error
    finally:
        csv.field_size_limit(limit)
    return number


def _check_lines(path: Path, what: str) -> None:
    """Raise for the first line that holds no JSON object."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, 1):
            try:
                holds = json.loads(line) if line.strip() else {}
            except ValueError as error:
                raise MmedgeError(
                    f"the line is no JSON: {error}", where=f"{path}, row {number}", todo="write one object a line"
                ) from error
            if not isinstance(holds, dict):
                raise MmedgeError(
                    f"the line of the {what} holds a {type(holds).__name__}, and no object",
                    where=f"{path}, row {number}",
                    todo='write one object a line: {"column": value, …}',
                )
