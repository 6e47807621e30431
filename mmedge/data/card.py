"""The data card: what ``check`` shows of a split before a run, and the run's report after it. No sample is named."""

from __future__ import annotations

from collections.abc import Mapping

import polars

from mmedge import tasks
from mmedge.data.manifest.source import present
from mmedge.data.manifest.targets import labelled
from mmedge.recipe import Data
from mmedge.report.provenance import SplitCard
from mmedge.tasks.cells import Cells


def split_card(part: polars.DataFrame, cells: Mapping[str, Cells], data: Data) -> SplitCard:
    """The card of one split's manifest. ``cells``: {head: its cells}."""
    each = {name: tasks.of(target).card(cells[name], target) for name, target in data.heads.items()}
    counts = {"heads": each} if len(each) > 1 else next(iter(each.values())).record()
    return SplitCard(
        samples=part.height,
        labelled=int(part.select(labelled(data).sum()).item() or 0),
        groups=part["group"].n_unique() if "group" in part.columns else part.height,
        present={
            name: int(part.select(present(name, spec).sum()).item() or 0) for name, spec in data.modalities.items()
        },
    ).model_copy(update=counts)
