"""Faults of a table's cells: what is absent, constant, no number, half a box, or there twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars

from mmedge.data.manifest.faults import columns_of
from mmedge.data.manifest.source import ROW, SPLIT, present
from mmedge.data.manifest.splits import SPLITS
from mmedge.errors import Fault
from mmedge.preprocess.tabular import LARGEST
from mmedge.recipe import Data
from mmedge.spec import ImageSpec, TabularSpec

# Of a standard deviation: what may be lost of a number where float32 holds it, and how close half of them may lie.
_LOST, _SQUASHED = 0.02, 1e-3


def presence_faults(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    faults = []
    for name, spec in data.modalities.items():
        here = present(name, spec)
        for split in SPLITS:
            part = table.filter(polars.col(SPLIT) == split)
            if part.height and not part.select(here.any()).item():
                everywhere = not table.select(here.any()).item()
                if everywhere and split != "train":
                    continue
                faults.append(
                    Fault(
                        "error" if split == "train" else "warning",
                        "absent-modality",
                        f"the modality {name!r} is absent from every sample{'' if everywhere else f' of the {split} split'}",
                        file,
                        column=columns_of(name, spec)[0],
                        todo="remove it from data.modalities, or fill the column",
                    )
                )
    return faults


def empty_rows(table: polars.DataFrame, kept: polars.DataFrame, file: str) -> list[Fault]:
    """The rows of ``table`` that are not among those that a run keeps."""
    return [
        Fault(
            "warning",
            "empty-row",
            "the sample has no modality at all: it is left out",
            file,
            row,
            todo="remove the row, or fill a cell",
        )
        for row in table.join(kept, on=ROW, how="anti")[ROW]
    ]


def number_faults(table: polars.DataFrame, spec: TabularSpec, file: str) -> list[Fault]:
    faults: list[Fault] = []
    for column in spec.columns:
        cells = table[column]
        values = cells.str.strip_chars().cast(polars.Float64, strict=False)
        for row in (cells.is_not_null() & ~(values.abs() <= LARGEST).fill_null(False)).arg_true():
            why = "is not finite" if values[row] is not None else "is no number"
            faults.append(
                Fault(
                    "error",
                    "number",
                    f"the cell {cells[row]!r} {why}",
                    file,
                    table[ROW][row],
                    column,
                    todo="correct it, empty it (missing), or name the column in 'categorical'",
                )
            )
        faults += _scale_faults(values, table, file, column)
    for column in spec.columns_read:
        train = table.filter(polars.col(SPLIT) == "train")[column].drop_nulls()
        if len(train) == 0:
            faults.append(
                Fault(
                    "warning",
                    "constant",
                    "the column is empty in the training split",
                    file,
                    column=column,
                    todo="remove it from the modality",
                )
            )
        elif train.n_unique() == 1 and table.height > 1:
            faults.append(
                Fault(
                    "warning",
                    "constant",
                    f"the column is constant in the training split ({train[0]!r}): it tells nothing",
                    file,
                    column=column,
                    todo="remove it from the modality",
                )
            )
    for column in spec.categorical:
        train = table.filter(polars.col(SPLIT) == "train")[column].drop_nulls()
        if train.n_unique() > spec.max_categories:
            faults.append(
                Fault(
                    "warning",
                    "categories",
                    f"the column has {train.n_unique()} values; the {spec.max_categories} commonest are told apart",
                    file,
                    column=column,
                    todo="raise max_categories, or leave the column out if it is an id",
                )
            )
    return faults


def _scale_faults(values: polars.Series, table: polars.DataFrame, file: str, column: str) -> list[Fault]:
    """Warnings of numbers of which a network sees next to nothing: too far from 0 for float32, or beside one far beyond."""
    rows = ((table[SPLIT] == "train") & (values.abs() <= LARGEST).fill_null(False)).arg_true()
    known = values.gather(rows).to_numpy()
    if len(known) < 3 or not (spread := float(known.std())) > 0:
        return []
    if float(np.abs(known - known.astype(np.float32)).max()) > _LOST * spread:
        step = float(np.spacing(np.float32(np.abs(known).max())))
        what = (
            f"numbers of about {known.mean():.3g} are {spread:.2g} apart, and float32 tells them by steps of {step:.2g}"
        )
        todo = "count them from another origin: subtract the smallest"
        return [Fault("warning", "digits", what, file, column=column, todo=todo)]
    apart = np.abs(known - np.median(known))
    if 0 < float(np.median(apart)) < _SQUASHED * spread:
        row = rows[int(apart.argmax())]
        what = f"the cell {values[row]:g} is so far from the others that these are {np.median(apart) / spread:.1g} standard deviations apart"
        todo = "correct it, empty it, or give the column's logarithm"
        return [Fault("warning", "outlier", what, file, table[ROW][row], column, todo=todo)]
    return []


def box_faults(table: polars.DataFrame, spec: ImageSpec, file: str) -> list[Fault]:
    """Boxes with some edges missing."""
    if not spec.box:
        return []
    edges = spec.columns_read[1:]
    some = polars.any_horizontal(polars.col(c).is_null() for c in edges) & polars.any_horizontal(
        polars.col(c).is_not_null() for c in edges
    )
    return [
        Fault("error", "box", "the box lacks an edge", file, row, edges[0], todo="fill all four columns, or none")
        for row in table.filter(some)[ROW]
    ]


def all_columns(data: Data) -> list[str]:
    """The columns that modalities read, each once."""
    return list(dict.fromkeys(c for name, spec in data.modalities.items() for c in columns_of(name, spec)))


def duplicate_rows(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    """Samples whose cells are all the same in two splits.

    An error where they name a file, which is then the same file; rows of nothing but words and numbers may be alike by
    chance.
    """
    columns = all_columns(data)
    files = [columns_of(name, spec)[0] for name, spec in data.modalities.items() if spec.reads_file]
    spread = (
        table.group_by(columns)
        .agg(polars.col(SPLIT).unique().sort(), polars.col(ROW).sort())
        .filter(polars.col(SPLIT).list.len() > 1)
        .sort(polars.col(ROW).list.first())
    )
    return [
        duplicate(
            found[SPLIT],
            found[ROW],
            "error" if any(found[c] is not None for c in files) else "warning",
            file,
            "the whole sample",
        )
        for found in spread.iter_rows(named=True)
    ]


def duplicate(
    splits: Sequence[str], rows: Sequence[int], severity: str, file: str, what: str, column: str | None = None
) -> Fault:
    """The fault of content that stands in several splits."""
    also = ", ".join(str(row) for row in rows[1:4]) + (", …" if len(rows) > 4 else "")
    return Fault(
        "error" if severity == "error" else "warning",
        "duplicate",
        f"{what} is in {' and '.join(splits)}: again in row{'s' if len(rows) > 2 else ''} {also}",
        file,
        rows[0],
        column,
        todo="keep one, or give both to one split (data.group does)",
    )
