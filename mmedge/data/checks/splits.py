"""Faults of splits and targets: what is empty, alone, unseen or on both sides."""

from __future__ import annotations

from typing import Literal

import polars

from mmedge.data.manifest.labels import named_in, telling_splits, unlabelled_split
from mmedge.data.manifest.source import ROW, SPLIT, empty_split, target_column
from mmedge.data.manifest.splits import SPLITS, UNITS
from mmedge.errors import Fault
from mmedge.recipe import Data

# Fewer training samples of a class than this are told of.
TINY = 5


def split_faults(table: polars.DataFrame, data: Data, file: str, learns_labels: bool) -> list[Fault]:
    """``learns_labels``: whether the training split needs a label."""
    faults = []
    for split in SPLITS:
        part = table.filter(polars.col(SPLIT) == split)
        if part.is_empty():
            what, todo = empty_split(split, [table], data)
            faults.append(Fault("error", "empty-split", what, file, todo=todo))
        elif part[target_column(data)].null_count() == part.height:
            if split != "train" or learns_labels:
                what, todo = unlabelled_split(split)
                faults.append(Fault("error", "unlabelled-split", what, file, column=data.target, todo=todo))
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


def class_faults(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    faults: list[Fault] = []
    target = target_column(data)
    named = [None if names is None else sorted(names) for names in named_in(data, table[target])]
    known = table.with_columns(polars.Series(target, named, dtype=polars.List(polars.String))).explode(target)
    known = known.filter(polars.col(target).is_not_null())
    counts = {
        split: dict(known.filter(polars.col(SPLIT) == split)[target].value_counts().iter_rows()) for split in SPLITS
    }
    cells = {split: table.filter(polars.col(SPLIT) == split)[target] for split in SPLITS}
    told = {label for split in telling_splits(cells) for label in counts[split]}
    for split in ("validation", "test"):
        for label in sorted(counts[split].keys() - told):
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
    spellings: dict[str, str] = {}
    for label in sorted(known[target].unique()):
        other = spellings.setdefault(" ".join(label.lower().split()), label)
        if other != label:
            faults.append(
                Fault(
                    "warning",
                    "alike-labels",
                    f"the labels {other!r} and {label!r} differ in blanks or case only, and are two classes",
                    file,
                    known.filter(polars.col(target) == label)[ROW][0],
                    target,
                    todo="spell them alike",
                )
            )
    for label, count in sorted(counts["train"].items()):
        if count < TINY:
            faults.append(
                Fault(
                    "warning",
                    "tiny-class",
                    f"the class {label!r} has {count} training sample{'s' if count > 1 else ''}",
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


def value_faults(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
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


def forgotten_groups(given: polars.DataFrame, table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    """Columns of the ``given`` table that by their name tell people or devices apart, of whom most are in several splits.

    ``table``: the arranged one, which tells the split of every row.
    """
    if data.group:
        return []
    given = given.with_columns(polars.int_range(1, given.height + 1).alias(ROW)).join(
        table.select(ROW, SPLIT), on=ROW, how="inner"
    )
    used = {data.target, data.id, data.split, *(c for spec in data.modalities.values() for c in spec.columns_read)}
    faults = []
    for name in given.columns:
        if name in used or not UNITS.search(name):
            continue
        known = given.filter(polars.col(name).is_not_null())
        units = known.group_by(name).agg(polars.col(SPLIT).n_unique().alias("splits"))
        shared = int((units["splits"] > 1).sum())
        if 1 < units.height <= known.height // 2 and 2 * shared > units.height:
            what = f"{shared} of the {units.height} values of {name!r} are in several splits, and data.group is not set"
            how = (
                f"give each to one split in {data.split!r}"
                if data.split
                else f"data.group: {name} keeps each in one split"
            )
            todo = f"{how}; else the figures are of ones that training has met"
            faults.append(Fault("warning", "no-group", what, file, column=name, todo=todo))
    return faults


def group_faults(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
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
