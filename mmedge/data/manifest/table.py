"""A user's table, read by polars, and what is wrong with it as a file: told with its row, where there is one."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import polars

from mmedge.errors import MmedgeError

# Tables that people have, and mmedge does not read.
_FOREIGN = {".xlsx", ".xls", ".ods", ".json", ".feather", ".arrow", ".pkl", ".pickle", ".zip", ".gz", ".db", ".sqlite"}


def read_table(path: Path) -> polars.DataFrame:
    """A CSV, JSONL or Parquet manifest as a table of strings; empty cells are null, lists are JSON."""
    table = read_columns(path, "manifest")
    for name, kind in table.schema.items():
        if isinstance(kind, polars.Struct) and path.suffix.lower() == ".parquet":
            raise MmedgeError(
                f"the cells of a manifest are texts, numbers and paths, and those of {name!r} are objects",
                where=f"{path}, column {name}",
                todo="give each of their values a column of its own, or save a series as a .npy file",
            )
    lists = [name for name, kind in table.schema.items() if isinstance(kind, (polars.List, polars.Array))]
    table = table.with_columns(
        polars.col(name).map_elements(lambda cell: json.dumps(list(cell), ensure_ascii=False), polars.String)
        for name in lists
    )
    return table.select(polars.all().cast(polars.String).replace("", None))


def read_columns(path: Path, what: str) -> polars.DataFrame:
    """A CSV, TSV, JSONL or Parquet file with a row or more, its cells as they are there. ``what`` it is, for the errors."""
    ending = path.suffix.lower()
    if not os.path.isfile(path):
        said = "is a folder" if path.is_dir() else "does not exist"
        raise MmedgeError(f"the {what} {said}", where=str(path), todo="correct data.manifest")
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
                table = polars.read_ndjson(path, infer_schema_length=None)
            case _:
                lines = _check_rows(path, what, separator)
                table = polars.read_csv(path, infer_schema=False, separator=separator)
    except (polars.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        if ending in (".jsonl", ".ndjson"):
            _check_lines(path, what)
        raise MmedgeError(
            f"the {what} cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            todo="save it as UTF-8" if "utf-8" in str(error) else "save it again as CSV, JSONL or Parquet",
        ) from error
    if table.is_empty() and lines:
        raise MmedgeError(
            f"the {what}'s lines end in a carriage return alone", where=str(path), todo="save it with LF line ends"
        )
    if table.is_empty():
        raise MmedgeError(f"the {what} has no rows", where=str(path), todo="write a row a sample below the header")
    return table


def _check_rows(path: Path, what: str, separator: str) -> int:
    """Raise for what polars forgives, or refuses without a place; the number of rows."""
    limit = csv.field_size_limit(sys.maxsize)
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, delimiter=separator, strict=True)
            header = next(rows, [])
            other = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
            if other:
                raise MmedgeError(
                    f"the {what}'s columns are separated by {other!r}", where=str(path), todo="save it with commas"
                )
            twice = next((name for name in header if name and header.count(name) > 1), None)
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
