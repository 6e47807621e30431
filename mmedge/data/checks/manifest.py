"""Faults of the manifest as a file: its columns, ids and split names, and paths that lead nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import polars

from mmedge.data.manifest.source import ROW, columns_of
from mmedge.data.manifest.splits import SPELLINGS, SPLITS
from mmedge.data.manifest.table import read_table
from mmedge.errors import Fault, MmedgeError, did_you_mean
from mmedge.recipe import Data
from mmedge.spec import ModalitySpec


def manifest_faults(data: Data) -> tuple[list[Fault], Data | None]:
    """Faults of the manifest's columns, ids and splits, and the section without what is faulty, so that the rest of the

    table can be looked at; None where it cannot.
    """
    assert data.manifest is not None
    file = str(data.manifest)
    try:
        table = read_table(data.manifest)
    except MmedgeError as error:
        return [Fault.of(error, "manifest")], None
    faults: list[Fault] = []
    streams: set[str] = set()
    for name, stream in data.align.items():
        try:
            streams |= set(stream.columns or read_table(stream.file).columns)
        except MmedgeError as error:
            faults.append(Fault.of(error, "manifest", module=f"data.align.{name}"))
    known = [*table.columns, *streams]
    named: list[tuple[str, str | None]] = [
        (f"data.{key}", getattr(data, key)) for key in ("target", "id", "group", "split")
    ]
    if data.label_columns:  # the target is put together from them
        named = [*named[1:], *(("data.label_columns", column) for column in data.label_columns)]
    named += [
        (f"data.modalities.{name}", column)
        for name, spec in data.modalities.items()
        for column in columns_of(name, spec)
    ]
    for where, column in named:
        if column is not None and column not in known:
            faults.append(
                Fault(
                    "error",
                    "missing-column",
                    f"no column {column!r}{did_you_mean(column, known)}",
                    file,
                    column=column,
                    todo=f"correct {where}; there are {', '.join(table.columns)}",
                )
            )
    if faults:
        return faults, None
    relaxed: dict[str, None] = {}
    if data.id:
        ids = table[data.id]
        bad = (ids.is_null() | (ids.is_duplicated() & ids.is_not_null())).arg_true().to_list()
        relaxed |= {"id": None} if bad else {}
        faults += [
            Fault(
                "error",
                "id",
                "the id is empty" if ids[row] is None else f"the id {ids[row]!r} stands in more than one row",
                file,
                row + 1,
                data.id,
                todo="make the ids unique, or leave data.id out",
            )
            for row in bad
        ]
    if data.split:
        cells = table[data.split]
        bad = (~cells.str.strip_chars().str.to_lowercase().is_in(list(SPELLINGS))).fill_null(True).arg_true().to_list()
        relaxed |= {"split": None} if bad else {}
        faults += [
            Fault(
                "error",
                "split",
                f"unknown split {cells[row]!r}",
                file,
                row + 1,
                data.split,
                todo=f"use {', '.join(SPLITS)}",
            )
            for row in bad
        ]
    return faults, data.model_copy(update=relaxed)


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
            todo=_about_path(cell),
        )
        for row, cell in table.select(ROW, column).drop_nulls().iter_rows()
        if not os.path.isfile(folder / cell)
    ]


def _about_path(cell: str) -> str:
    if "://" in cell:
        return "mmedge fetches nothing: download it, and name the file"
    if "\\" in cell:
        return "write folders with / between them"
    return "correct the path, or empty the cell: the modality is then missing for that sample"
