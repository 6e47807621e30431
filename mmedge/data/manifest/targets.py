"""The columns of targets: where a head's cells stand, what is wrong with them, and what rows are stratified by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars

from mmedge import tasks
from mmedge.errors import MmedgeError
from mmedge.recipe import Data
from mmedge.tasks import CellFault
from mmedge.tasks.cells import Cells

_YES, _NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}
# Columns of the written manifests that are mmedge's own.
OWN_COLUMNS = ("id", "group", "source")


def written_columns(data: Data) -> dict[str, str]:
    """{head: the column of the written manifests that holds its target}; a name that mmedge uses itself gets an underscore.

    Of a head that needs no column each row is a thing of its own, as its id says.
    """
    named = {head: f"{column}_" if column in OWN_COLUMNS else column for head, column in data.target_columns.items()}
    return {head: named.get(head, "id") for head in data.heads}


def cells_of(
    data: Data, tables: Mapping[str, polars.DataFrame], folder: Path
) -> dict[str, dict[str, list[str | None]]]:
    """{head: {split: its cells}}. ``tables``: {split: its rows}; ``folder``: that paths in them are relative to."""
    found = {}
    for head, column in written_columns(data).items():
        cells = {split: table[column].to_list() for split, table in tables.items()}
        files = tasks.of(data.heads[head]).FILES
        found[head] = {split: [placed(c, folder) for c in each] for split, each in cells.items()} if files else cells
    return found


def placed(cell: str | None, folder: Path) -> str | None:
    """A cell that may be a path, made one from everywhere: a list of numbers is none."""
    return cell if cell is None or cell.startswith("[") else str(folder / cell)


def labelled(data: Data) -> polars.Expr:
    """Whether a row has the target of any head; a pair has it in itself."""
    columns = ["id" if tasks.of(data.heads[head]).AMONG else column for head, column in written_columns(data).items()]
    return polars.any_horizontal(polars.col(column).is_not_null() for column in columns)


def cell_faults(
    data: Data, cells: Mapping[str, Mapping[str, Cells]], *, learns_labels: bool
) -> Iterator[tuple[str, CellFault]]:
    """(head, what is wrong with its targets), for all heads: what ``check`` lists, and a run stops at the first error of.

    ``cells``: as of ``cells_of``; ``learns_labels``: whether the training split needs a label.
    """
    for head, target in data.heads.items():
        for split, of_split in cells[head].items():
            unknown = sum(cell is None for cell in of_split)
            if unknown == len(of_split) > 0 and (split != "train" or learns_labels):
                yield head, CellFault("error", "unlabelled-split", *_unlabelled(split), split)
            elif unknown and split != "train" and len(data.heads) == 1 and not tasks.of(target).AMONG:
                what = f"{unknown} samples of the {split} split have no label and cannot be scored"
                todo = "move them to the training split, where distillation uses them"
                yield head, CellFault("warning", "unlabelled", what, todo, split)
        if any(cell is not None for of_split in cells[head].values() for cell in of_split):
            for cell_fault in tasks.of(target).faults(cells[head], target):
                yield head, cell_fault


def _unlabelled(split: str) -> tuple[str, str]:
    """What is wrong with a split without a label, and what to do."""
    if split == "train":
        todo = "label some; or, where a teacher that has learnt elsewhere teaches alone, set distill.labels: none"
    else:
        todo = "label some of its rows: what is kept is judged by them"
    return f"no sample of the {split} split has a label", todo


def strata(data: Data, table: polars.DataFrame) -> list[str]:
    """What rows are stratified by, "" where no head has a target: the first head's strata, where it has one."""
    found = [""] * table.height
    for head, column in written_columns(data).items():
        target = data.heads[head]
        for row, stratum in enumerate(tasks.of(target).strata(table[column].to_list(), target)):
            found[row] = found[row] or stratum
    return found


def listed(table: polars.DataFrame, columns: Sequence[str]) -> polars.Series:
    """One cell of several numbers' columns, a JSON list of them; a row without any is unlabelled, one that lacks some has null."""
    rows = ([cell if cell is None else cell.strip() for cell in row] for row in table.select(columns).iter_rows())
    cells = [None if all(cell is None for cell in row) else json.dumps(row, ensure_ascii=False) for row in rows]
    return polars.Series(cells, dtype=polars.String)


def joined(table: polars.DataFrame, columns: Sequence[str], where: str) -> polars.Series:
    """One cell of labels from several columns of 0 and 1, named by the labels. A row without any cell is unlabelled.

    Raises MmedgeError for another value, and for a row of which only some cells are filled.
    """
    cells: list[str | None] = []
    for number, row in enumerate(table.select(columns).iter_rows(), 1):
        words = [None if cell is None else cell.strip().lower() for cell in row]
        if all(word is None for word in words):
            cells.append(None)
            continue
        wrong = next((name for name, word in zip(columns, words) if word not in _YES | _NO), None)
        if wrong is not None:
            raise MmedgeError(
                f"a label's column must hold 0 or 1, not {row[list(columns).index(wrong)]!r}",
                where=f"{where}, row {number}, column {wrong}",
                todo="fill it, or empty all label columns of the row: the sample is then unlabelled",
            )
        cells.append(json.dumps([name for name, word in zip(columns, words) if word in _YES], ensure_ascii=False))
    return polars.Series(cells, dtype=polars.String)
