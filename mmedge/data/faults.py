"""What is wrong with a table of samples, seen without opening any of its files. Nothing here stops at a first fault."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars

from mmedge.data.labels import named_in
from mmedge.data.source import ROW, SPLIT, columns_of, read_table, target_column
from mmedge.data.splits import SPLITS
from mmedge.errors import Fault, MmedgeError, did_you_mean
from mmedge.recipe import Data
from mmedge.spec import ImageSpec, ModalitySpec, TabularSpec

# Fewer training samples of a class than this are told of.
TINY = 5


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
        spoken = {*SPLITS, "val", "valid", "dev", "eval", "training"}
        cells = table[data.split]
        bad = (~cells.str.to_lowercase().is_in(spoken)).fill_null(True).arg_true().to_list()
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


def table_faults(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    """Faults of an arranged table (see ``source.arranged``): labels, classes, groups, presence, numbers."""
    return [
        *_split_faults(table, data, file),
        *(_value_faults(table, data, file) if data.task == "regression" else _class_faults(table, data, file)),
        *_group_faults(table, data, file),
        *_presence_faults(table, data, file),
        *(
            fault
            for spec in data.modalities.values()
            if isinstance(spec, TabularSpec)
            for fault in _number_faults(table, spec, file)
        ),
        *_duplicate_rows(table, data, file),
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
            todo="correct the path, or empty the cell: the modality is then missing for that sample",
        )
        for row, cell in table.select(ROW, column).drop_nulls().iter_rows()
        if not os.path.isfile(folder / cell)
    ]


def _split_faults(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    faults = []
    for split in SPLITS:
        part = table.filter(polars.col(SPLIT) == split)
        if part.is_empty():
            faults.append(
                Fault(
                    "error",
                    "empty-split",
                    f"the {split} split is empty",
                    file,
                    todo="correct data.split or data.ratios, or add rows",
                )
            )
        elif part[target_column(data)].null_count() == part.height:
            faults.append(
                Fault(
                    "error",
                    "unlabelled-split",
                    f"no sample of the {split} split has a label",
                    file,
                    column=data.target,
                    todo="add labels",
                )
            )
        elif split != "train" and part[target_column(data)].null_count():
            count = part[target_column(data)].null_count()
            faults.append(
                Fault(
                    "warning",
                    "unlabelled",
                    f"{count} samples of the {split} split have no label and cannot be scored",
                    file,
                    column=data.target,
                    todo="move them to the training split, where distillation uses them",
                )
            )
    return faults


def _class_faults(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    faults: list[Fault] = []
    target = target_column(data)
    named = [None if names is None else sorted(names) for names in named_in(data, table[target])]
    known = table.with_columns(polars.Series(target, named, dtype=polars.List(polars.String))).explode(target)
    known = known.filter(polars.col(target).is_not_null())
    counts = {
        split: dict(known.filter(polars.col(SPLIT) == split)[target].value_counts().iter_rows()) for split in SPLITS
    }
    for split in ("validation", "test"):
        for label in sorted(counts[split].keys() - counts["train"].keys()):
            rows = known.filter((polars.col(SPLIT) == split) & (polars.col(target) == label))[ROW]
            faults.append(
                Fault(
                    "error",
                    "unseen-label",
                    f"the label {label!r} of {len(rows)} {split} samples is not in the training split",
                    file,
                    rows[0],
                    target,
                    todo="correct the label or the split",
                )
            )
    for split in SPLITS:
        if len(counts[split]) == 1:
            only = next(iter(counts[split]))
            severity: Literal["error", "warning"] = "error" if split == "train" else "warning"
            faults.append(
                Fault(
                    severity,
                    "one-class",
                    f"the {split} split has one class only: {only!r}",
                    file,
                    column=target,
                    todo="classification needs two: correct the split, or add rows",
                )
            )
    for label, count in sorted(counts["train"].items()):
        if count < TINY:
            faults.append(
                Fault(
                    "warning",
                    "tiny-class",
                    f"the class {label!r} has {count} training samples",
                    file,
                    column=target,
                    todo="add samples, join classes, or set train.class_weights: balanced",
                )
            )
        for split in ("validation", "test"):
            if counts[split] and label not in counts[split]:
                faults.append(
                    Fault(
                        "warning",
                        "empty-class",
                        f"the class {label!r} has no {split} sample: nothing tells how well it is known",
                        file,
                        column=target,
                        todo="add samples, or change data.ratios or data.split",
                    )
                )
    return faults


def _value_faults(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    values = table[target_column(data)].cast(polars.Float64, strict=False)
    wrong = (table[target_column(data)].is_not_null() & ~values.is_finite().fill_null(False)).arg_true().to_list()
    faults = [
        Fault(
            "error",
            "target",
            f"the target {table[target_column(data)][row]!r} is not a finite number",
            file,
            table[ROW][row],
            data.target,
            todo="correct it, or empty the cell: the sample is then unlabelled",
        )
        for row in wrong
    ]
    if not wrong and values.drop_nulls().n_unique() == 1:
        faults.append(
            Fault(
                "error",
                "constant",
                "the target has one value only",
                file,
                column=data.target,
                todo="there is nothing to learn",
            )
        )
    return faults


def _group_faults(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    if "group" not in table.columns or not data.group:
        return []
    spread = (
        table.group_by("group")
        .agg(polars.col(SPLIT).unique().sort(), polars.col(ROW).first())
        .filter(polars.col(SPLIT).list.len() > 1)
        .sort(ROW)
    )
    units = {split: table.filter(polars.col(SPLIT) == split)["group"].n_unique() for split in SPLITS[1:]}
    few = [
        Fault(
            "warning",
            "few-groups",
            f"the {split} split has {count} group{'s' if count > 1 else ''}: its figures speak for no other",
            file,
            column=data.group,
            todo="add groups, or give the split a larger share",
        )
        for split, count in units.items()
        if 0 < count < 5
    ]
    return few + [
        Fault(
            "error",
            "group-leakage",
            f"the group {group!r} is in {', '.join(splits)}: the figures would be too good",
            file,
            row,
            data.group,
            todo="give whole groups to one split, or leave data.split out",
        )
        for group, splits, row in spread.iter_rows()
    ]


def _presence_faults(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    faults, here = [], {}
    for name, spec in data.modalities.items():
        columns = columns_of(name, spec) if isinstance(spec, TabularSpec) else columns_of(name, spec)[:1]
        here[name] = polars.any_horizontal(polars.col(column).is_not_null() for column in columns)
        for split in SPLITS:
            part = table.filter(polars.col(SPLIT) == split)
            if part.height and not part.select(here[name].any()).item():
                everywhere = not table.select(here[name].any()).item()
                if everywhere and split != "train":
                    continue
                faults.append(
                    Fault(
                        "error" if split == "train" else "warning",
                        "absent-modality",
                        f"the modality {name!r} is absent from every sample{'' if everywhere else f' of the {split} split'}",
                        file,
                        column=columns[0],
                        todo="remove it from data.modalities, or fill the column",
                    )
                )
    for row in table.filter(~polars.any_horizontal(*here.values()))[ROW]:
        faults.append(
            Fault("error", "empty-row", "the sample has no modality at all", file, row, todo="remove the row")
        )
    return faults


def _number_faults(table: polars.DataFrame, spec: TabularSpec, file: str) -> list[Fault]:
    faults: list[Fault] = []
    for column in spec.columns:
        cells = table[column]
        values = cells.cast(polars.Float64, strict=False)
        for row in (cells.is_not_null() & ~values.is_finite().fill_null(False)).arg_true():
            said = "is not finite" if values[row] is not None else "is no number"
            faults.append(
                Fault(
                    "error",
                    "number",
                    f"the cell {cells[row]!r} {said}",
                    file,
                    table[ROW][row],
                    column,
                    todo="correct it, empty it (missing), or name the column in 'categorical'",
                )
            )
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


def _duplicate_rows(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    """Samples whose cells are all the same in two splits. An error where they name a file, which is then the same file;

    rows of nothing but words and numbers may be alike by chance.
    """
    columns = list(dict.fromkeys(c for name, spec in data.modalities.items() for c in columns_of(name, spec)))
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


def box_faults(table: polars.DataFrame, spec: ImageSpec, file: str) -> list[Fault]:
    """Boxes with some edges missing."""
    if not spec.box:
        return []
    some = polars.any_horizontal(polars.col(c).is_null() for c in spec.box) & polars.any_horizontal(
        polars.col(c).is_not_null() for c in spec.box
    )
    return [
        Fault("error", "box", "the box lacks an edge", file, row, spec.box[0], todo="fill all four columns, or none")
        for row in table.filter(some)[ROW]
    ]
