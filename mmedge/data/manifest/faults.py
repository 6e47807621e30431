"""Faults of a manifest's columns, ids and split names: what ``check`` lists, and a run stops at the first of."""

from __future__ import annotations

from collections.abc import Sequence

import polars

from mmedge.data.manifest.splits import SPELLINGS, SPLITS
from mmedge.errors import Fault, did_you_mean
from mmedge.recipe import Data
from mmedge.spec import ModalitySpec


def columns_of(name: str, spec: ModalitySpec) -> tuple[str, ...]:
    """The manifest columns that a modality reads; its own name where the recipe names none."""
    return spec.columns_read or (name,)


def column_faults(table: polars.DataFrame, data: Data, joined: Sequence[str] = ()) -> list[Fault]:
    """Columns that the recipe names and neither the manifest nor a joined table has. ``joined``: that table's columns."""
    known = [*table.columns, *joined]
    named = list(data.columns_named().items())
    if data.label_columns:  # the target is put together from them
        named = [*named[1:], *(("data.label_columns", column) for column in data.label_columns)]
    for name, spec in data.modalities.items():
        named += [(f"data.modalities.{name}", column) for column in columns_of(name, spec)]
    return [
        Fault(
            "error",
            "missing-column",
            f"no column {column!r}{did_you_mean(column, known)}",
            str(data.manifest),
            column=column,
            todo=f"correct {where}; there are {', '.join(table.columns)}",
        )
        for where, column in named
        if column is not None and column not in known
    ]


def id_faults(table: polars.DataFrame, data: Data) -> list[Fault]:
    """Rows of no id, or of one that another row has."""
    if not data.id:
        return []
    ids = table[data.id]
    return [
        Fault(
            "error",
            "id",
            "the id is empty" if ids[row] is None else f"the id {ids[row]!r} stands in more than one row",
            str(data.manifest),
            row + 1,
            data.id,
            todo="make the ids unique, or leave data.id out",
        )
        for row in (ids.is_null() | (ids.is_duplicated() & ids.is_not_null())).arg_true()
    ]


def split_name_faults(table: polars.DataFrame, data: Data) -> list[Fault]:
    """Rows whose split is none that there is, however it is spelled."""
    if not data.split:
        return []
    cells = table[data.split]
    known = cells.str.strip_chars().str.to_lowercase().is_in(list(SPELLINGS))
    return [
        Fault(
            "error",
            "split",
            f"unknown split {cells[row]!r}",
            str(data.manifest),
            row + 1,
            data.split,
            todo=f"use {', '.join(SPLITS)}",
        )
        for row in (~known).fill_null(True).arg_true()
    ]
