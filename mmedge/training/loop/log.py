"""What is written of a training that has ended: one row an epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

CSV = "training.csv"


def csv_of(history: Sequence[Mapping[str, float]]) -> str:
    """The history as a CSV text: a header, and a row an epoch. A training without epochs has no columns either."""
    text = io.StringIO()
    if history:
        columns = list(dict.fromkeys(name for record in history for name in record))  # a newer version may tell more
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
    return text.getvalue()


def csv_read(path: Path) -> list[dict[str, float]]:
    """The history that ``csv_of`` wrote."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]
