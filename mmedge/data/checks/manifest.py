"""Faults of the manifest as a file: its columns, ids and split names, and paths that lead nowhere."""

from __future__ import annotations

from pathlib import Path

import polars

from mmedge.data.manifest import shards
from mmedge.data.manifest.faults import column_faults, columns_of, id_faults, split_name_faults
from mmedge.data.manifest.source import ROW
from mmedge.data.manifest.table import read_table
from mmedge.data.store.content import there
from mmedge.data.wizard.glimpse import spelled_otherwise
from mmedge.errors import Fault, MmedgeError
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
    cut = shards.faults(data.manifest, data.unreadable)
    if any(fault.severity == "error" for fault in cut):
        return cut, None
    faults, joined = _columns_of_streams(data)
    faults += column_faults(table, data, joined)
    if faults:
        return [*cut, *faults], None
    relaxed: dict[str, None] = {}
    for key, found in (("id", id_faults(table, data)), ("split", split_name_faults(table, data))):
        faults += found
        relaxed |= {key: None} if found else {}
    return [*cut, *faults], data.model_copy(update=relaxed)


def _columns_of_streams(data: Data) -> tuple[list[Fault], list[str]]:
    """What is wrong with the tables that are joined, and their columns."""
    faults: list[Fault] = []
    columns: list[str] = []
    for name, stream in data.align.items():
        try:
            columns += stream.columns or read_table(stream.file).columns
        except MmedgeError as error:
            faults.append(Fault.of(error, "manifest", module=f"data.align.{name}"))
    return faults, columns


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
        if not there(spec, folder / cell)
    ]


def _about_path(cell: str, folder: Path) -> str:
    if "://" in cell:
        return "mmedge fetches nothing: download it, and name the file"
    if meant := spelled_otherwise(cell, folder):
        return f"write {meant[1]}: folders with / between them, upper and lower case as the file has it"
    if "\\" in cell:
        return "write folders with / between them"
    return "correct the path, or empty the cell: the modality is then missing for that sample"
