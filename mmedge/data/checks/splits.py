"""Faults of splits: what is empty, few, or on both sides."""

from __future__ import annotations

import polars

from mmedge import tasks
from mmedge.data.checks.cells import all_columns
from mmedge.data.manifest.source import ROW, SPLIT, empty_split
from mmedge.data.manifest.splits import SPLITS, UNITS
from mmedge.errors import Fault
from mmedge.recipe import Data


def empty_splits(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    """The splits that hold no row."""
    found = table[SPLIT].unique().to_list()
    each = [empty_split(split, [table], data) for split in SPLITS if split not in found]
    return [Fault("error", "empty-split", what, file, todo=todo) for what, todo in each]


def identical_rows(table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    """The splits whose rows are all the same, where rows are told from one another: of no item another is the wrong one."""
    if not any(tasks.of(target).AMONG for target in data.heads.values()):
        return []
    columns = all_columns(data)
    alike = [
        split
        for (split,), rows in table.group_by(SPLIT, maintain_order=True)
        if rows.height > 1 and rows.select(columns).n_unique() == 1
    ]
    todo = "look at the columns that data.modalities read: are they those of the pairs?"
    return [
        Fault("error", "identical-pairs", f"all pairs of the {split} split are the same", file, todo=todo)
        for split in alike
    ]


def forgotten_groups(whole: polars.DataFrame, table: polars.DataFrame, data: Data, file: str) -> list[Fault]:
    """Columns of the ``whole`` table that by their name tell people or devices apart, of whom most are in several splits.

    ``table``: the arranged one, which tells the split of every row.
    """
    if data.group:
        return []
    whole = whole.with_columns(polars.int_range(1, whole.height + 1).alias(ROW)).join(
        table.select(ROW, SPLIT), on=ROW, how="inner"
    )
    used = {*data.columns_named().values(), *(c for spec in data.modalities.values() for c in spec.columns_read)}
    faults = []
    for name in whole.columns:
        if name in used or not UNITS.search(name):
            continue
        known = whole.filter(polars.col(name).is_not_null())
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
