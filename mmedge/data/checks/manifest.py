"""Faults of the manifest as a file: its columns, ids and split names, and paths that lead nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import polars

from mmedge.data.manifest.source import ROW, columns_of
from mmedge.data.manifest.splits import SPELLINGS, SPLITS
from mmedge.data.manifest.table import read_table
from mmedge.data.wizard.glimpse import spelled_otherwise
from mmedge.errors import Fault, MmedgeError, did_you_mean
from mmedge.recipe import Data
from mmedge.spec import ModalitySpec


def manifest_faults(data: Data) -> tuple[list[Fault], Data | None]:
    """Faults of the manifest's columns, ids and splits, and the section without what is faulty.

    With that section the rest of the table can be looked at; None where it cannot.
    """
    assert data.manifest is not None
    try:
        table = read_table(data.manifest)
    except MmedgeError as error:
        return [Fault.of(error, "manifest")], None
    faults = _column_faults(table, data)
    if faults:
        return faults, None
    relaxed: dict[str, None] = {}
    for key, found in (("id", _id_faults(table, data)), ("split", _split_name_faults(table, data))):
        faults += found
        relaxed |= {key: None} if found else {}
    return faults, data.model_copy(update=relaxed)


def _column_faults(table: polars.DataFrame, data: Data) -> list[Fault]:
    """Columns that the recipe names and neither the manifest nor a joined table has."""
    faults: list[Fault] = []
    streams: set[str] = set()
    for name, stream in data.align.items():
        try:
            streams |= set(stream.columns or read_table(stream.file).columns)
        except MmedgeError as error:
            faults.append(Fault.of(error, "manifest", module=f"data.align.{name}"))
    known = [*table.columns, *streams]
    named = list(data.columns_named().items())
    if data.label_columns:  # the target is put together from them
        named = [*named[1:], *(("data.label_columns", column) for column in data.label_columns)]
    for name, spec in data.modalities.items():
        named += [(f"data.modalities.{name}", column) for column in columns_of(name, spec)]
    return faults + [
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


def _id_faults(table: polars.DataFrame, data: Data) -> list[Fault]:
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


def _split_name_faults(table: polars.DataFrame, data: Data) -> list[Fault]:
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


def missing_files(table: polars.DataFrame, name: str, spec: ModalitySpec, folder: Path, file: str) -> list[Fault]:
    """Cells that name no file. Looks at directory entries only."""
    column = columns_of(name, spec)[0]
    return [
        Fault(
            "error",
            "missing-file",
            f"the {name} file does not exist: {cell}",
            file,
            row,
            column,
            todo=_about_path(cell, folder),
        )
        for row, cell in table.select(ROW, column).drop_nulls().iter_rows()
        if not os.path.isfile(folder / cell)
    ]


def _about_path(cell: str, folder: Path) -> str:
    if "://" in cell:
        return "mmedge fetches nothing: download it, and name the file"
    if meant := spelled_otherwise(cell, folder):
        return f"write {meant[1]}: folders with / between them, upper and lower case as the file has it"
    if "\\" in cell:
        return "write folders with / between them"
    return "correct the path, or empty the cell: the modality is then missing for that sample"
