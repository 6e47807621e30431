"""What arranging a run's data did: part of report.json and of the data card."""

from __future__ import annotations

from pydantic import Field

from mmedge.frozen import Record


class AlignmentRecord(Record):
    """What joining a stream with timestamps did to the rows of a manifest."""

    stream: str
    method: str
    rows: int = Field(description="Of the manifest.")
    aligned: int = Field(description="Rows that found a partner.")
    dropped: int = Field(description="Rows that did not; their cells are empty.")
    stream_rows: int
    stream_rows_unused: int = Field(description="Rows of the stream that met none of the manifest's.")
    seconds_apart: dict[str, float] = Field(description="p50, p95 and max over the aligned.")

    def __str__(self) -> str:
        apart = ", ".join(f"{name} {value:.3g} s" for name, value in self.seconds_apart.items())
        return (
            f"align: {self.aligned} of {self.rows} rows found a {self.method} partner in {self.stream}"
            f"{f' ({apart} apart)' if apart else ''}; {self.dropped} did not, {self.stream_rows_unused} of its {self.stream_rows} rows are unused"
        )


class ArrangedRecord(Record):
    """What arranging the data did: rows left out for want of any modality, and how each stream was joined."""

    left_out: int | None = None
    align: list[AlignmentRecord] | None = None
    cut_shards: list[str] | None = Field(
        None, description="Tar shards that end early, whose last samples are left out."
    )
