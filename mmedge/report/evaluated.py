"""How good a bundle is on a table: the document of ``mmedge evaluate``, and how it stands on the terminal (stderr)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from mmedge.frozen import Record
from mmedge.report import Interval
from mmedge.report.schema import QualityRecord


class FigureRecord(Record):
    """The metric of a head or a subset; absent where its rows do not give one."""

    value: float | None = None
    ci95: Interval | None = None
    n: int = Field(description="Rows that it is over.")


class EvaluationReport(Record):
    """A bundle judged by a table. ``wrong``: rows that could not be predicted, and so are not judged."""

    schema_: Literal[1] = Field(1, alias="schema")
    table: str
    rows: int
    wrong: int
    quality: QualityRecord
    heads: dict[str, FigureRecord] | None = Field(None, description="Where the bundle has several.")
    subsets: dict[str, FigureRecord]
    notes: list[str]

    def lines(self) -> Iterator[str]:
        """What a reader is shown."""
        low, high = self.quality.ci95
        yield f"{self.quality.metric} {self.quality.value:.3f} [{low:.3f}, {high:.3f}] of {self.quality.n} rows"
        for name, figure in [*(self.heads or {}).items(), *self.subsets.items()]:
            value = "not measured" if figure.value is None else f"{figure.value:.3f}"
            interval = " [{:.3f}, {:.3f}]".format(*figure.ci95) if figure.ci95 else ""
            yield f"  {name} {value}{interval} of {figure.n} rows"
        yield from self.notes
