"""What is wrong with a user's data, all of it at once: nothing here stops at a first fault."""

from __future__ import annotations

import polars

from mmedge.data.checks import cells, splits
from mmedge.data.checks.targets import target_faults
from mmedge.errors import Fault
from mmedge.recipe import Data
from mmedge.spec import ImageSpec, TabularSpec


def table_faults(table: polars.DataFrame, data: Data, file: str, *, learns_labels: bool = True) -> list[Fault]:
    """Faults of an arranged table (see ``source.arranged``): labels, classes, groups, presence, numbers.

    ``learns_labels``: whether the training split needs a label.
    """
    found = [
        *splits.empty_splits(table, data, file),
        *target_faults(table, data, file, learns_labels=learns_labels),
        *splits.group_faults(table, data, file),
        *splits.identical_rows(table, data, file),
        *cells.presence_faults(table, data, file),
    ]
    for spec in data.modalities.values():
        if isinstance(spec, TabularSpec):
            found += cells.number_faults(table, spec, file)
        if isinstance(spec, ImageSpec):
            found += cells.box_faults(table, spec, file)
    return found + cells.duplicate_rows(table, data, file)
