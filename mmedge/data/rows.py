"""A table read row by row, CSV and JSONL without any library: what ``predict`` reads on a device too."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmedge import tasks
from mmedge.errors import MissingDependency, MmedgeError
from mmedge.runtime.rows import Row
from mmedge.tasks import Head


def target_of(cells: Mapping[str, str | None], column: str, head: Head, folder: Path) -> str | None:
    """A row's cell of a head's target: that of the column, or of several numbers the list of their own columns' cells.

    ``folder``: that the paths of files are relative to.
    """
    if tasks.of(head).FILES:
        cell = cells.get(column)
        return cell if cell is None or cell.startswith("[") else str(folder / cell)
    if column in cells or not head.values or not set(head.values) <= cells.keys():
        return cells.get(column)
    each = [cells[name] for name in head.values]
    return json.dumps(each) if any(cell is not None for cell in each) else None


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV, TSV, JSONL or Parquet table, one at a time. Raises MmedgeError where it cannot be read."""
    try:
        match path.suffix.lower():
            case ".jsonl" | ".ndjson":
                records = _lines(path)
            case ".parquet":
                records = _parquet(path)
            case ending:
                records = _csv(path, "\t" if ending == ".tsv" else ",")
        for number, record in enumerate(records, 1):
            yield Row(number, f"{path}, row {number}", {str(name): _text(cell) for name, cell in record.items()})
    except FileNotFoundError:
        raise MmedgeError("the table does not exist", where=str(path), todo="correct the path") from None
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise MmedgeError(
            f"the table cannot be read: {error}", where=str(path), todo="save it as CSV, JSONL or Parquet, in UTF-8"
        ) from error


def _csv(path: Path, separator: str) -> Iterator[Mapping[str, object]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a text may be long
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, delimiter=separator, strict=True)
        header = next(rows, [])
        if not header:
            raise ValueError("it is empty")
        if other := next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None):
            raise ValueError(f"its columns are separated by {other!r}")
        _check_twice(header)
        for number, row in enumerate(filter(None, rows), 1):
            if len(row) != len(header):
                raise ValueError(f"row {number} has {len(row)} cells, and the header {len(header)}")
            yield dict(zip(header, row))


def _lines(path: Path) -> Iterator[Mapping[str, object]]:
    with path.open(encoding="utf-8-sig") as stream:
        for line in filter(str.strip, stream):
            record = json.loads(line, object_pairs_hook=object_of)
            if not isinstance(record, dict):
                raise ValueError("a line is no JSON object")
            yield record


def object_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, for ``object_pairs_hook``. Raises ValueError where a name stands twice in it."""
    _check_twice([name for name, _ in pairs])
    return dict(pairs)


def _check_twice(names: list[str]) -> None:
    """Raise ValueError where a name stands twice: which of its cells is meant, nobody knows."""
    twice = next((name for name, count in Counter(names).items() if name and count > 1), None)
    if twice:
        raise ValueError(f"two columns are called {twice!r}")


def _parquet(path: Path) -> Iterator[Mapping[str, object]]:
    try:
        import polars
    except ImportError as error:
        raise MissingDependency(
            "Parquet needs polars, which is not installed", todo="pip install polars, or save it as CSV"
        ) from error
    table = polars.read_parquet(path)
    yield from table.iter_rows(named=True)


def _text(cell: object) -> str | None:
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return None
    return cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False, default=str)
