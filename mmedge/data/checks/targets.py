"""Faults of targets: the one generator of them, told by ``check`` one and all, and by a run that stops at the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import polars

from mmedge.data.manifest.source import ROW, SPLIT
from mmedge.data.manifest.splits import SPLITS
from mmedge.data.manifest.targets import cell_faults, cells_of
from mmedge.errors import Fault, refuse
from mmedge.recipe import Data
from mmedge.tasks.cells import Cells


def target_faults(table: polars.DataFrame, data: Data, file: str, *, learns_labels: bool) -> list[Fault]:
    """What is wrong with the targets of an arranged table. ``file``: where it is read from, whose folder paths are relative to; ``learns_labels``: whether the training split needs a label."""
    tables = {split: table.filter(polars.col(SPLIT) == split) for split in SPLITS}
    tables = {split: rows for split, rows in tables.items() if rows.height}
    faults = []
    for head, found in cell_faults(data, cells_of(data, tables, Path(file).parent), learns_labels=learns_labels):
        row = None if found.row is None else tables[found.split][ROW][found.row]
        column = data.target_columns.get(head)
        faults.append(Fault(found.severity, found.kind, found.what, file, row, column, todo=found.todo))
    return faults


def refuse_faulty_targets(
    data: Data,
    tables: Mapping[str, polars.DataFrame],
    cells: Mapping[str, Mapping[str, Cells]],
    place: Callable[[str, str | None], str],
    *,
    learns_labels: bool,
) -> None:
    """Raise MmedgeError with the first error of the targets. ``place(sample, column)``: where the user finds it."""
    errors: list[Fault] = []
    for head, found in cell_faults(data, cells, learns_labels=learns_labels):
        if found.severity != "error":
            continue
        column = data.target_columns.get(head, "id")
        where = f"data/{found.split}.csv, column {column}"
        if found.row is not None and not errors:  # only the first is told, and to find its row takes time
            where = place(tables[found.split]["id"][found.row], column)
        errors.append(Fault("error", found.kind, found.what, where, todo=found.todo))
    refuse(errors)
