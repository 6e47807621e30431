"""Faults of targets: the one generator of them, told by ``check`` one and all, and by a run that stops at the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars

from mmedge.data.manifest.source import ROW, SPLIT
from mmedge.data.manifest.splits import SPLITS
from mmedge.data.manifest.targets import cells_of, target_findings
from mmedge.errors import Fault, MmedgeError
from mmedge.recipe import Data
from mmedge.tasks.cells import Cells


def target_faults(table: polars.DataFrame, data: Data, file: str, *, learns_labels: bool) -> list[Fault]:
    """What is wrong with the targets of an arranged table. ``learns_labels``: whether the training split needs a label."""
    tables = {split: table.filter(polars.col(SPLIT) == split) for split in SPLITS}
    tables = {split: rows for split, rows in tables.items() if rows.height}
    faults = []
    for head, finding in target_findings(data, cells_of(data, tables), learns_labels=learns_labels):
        row = None if finding.row is None else tables[finding.split][ROW][finding.row]
        column = data.heads[head].column or head
        faults.append(Fault(finding.severity, finding.kind, finding.what, file, row, column, todo=finding.todo))
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
    errors = [
        (head, found)
        for head, found in target_findings(data, cells, learns_labels=learns_labels)
        if found.severity == "error"
    ]
    if not errors:
        return
    head, first = errors[0]
    column = data.heads[head].column or head
    more = f" (and {len(errors) - 1} more; mmedge check lists them)" if len(errors) > 1 else ""
    where = f"data/{first.split}.csv, column {column}"
    if first.row is not None:
        where = place(tables[first.split]["id"][first.row], column)
    raise MmedgeError(first.what + more, where=where, todo=first.todo)
