"""Where a run comes from, as it stands in report.json: its data, its command, its versions and hashes."""

from __future__ import annotations

from pydantic import Field

from mmedge.frozen import Record
from mmedge.tasks.cells import TargetCard


class SplitCard(Record):
    """What a split has. ``present``: samples by modality. Of one head, what its task counts stands beside: ``classes``, or ``target``."""

    samples: int
    labelled: int
    groups: int
    present: dict[str, int]
    classes: dict[str, int] | None = None
    target: dict[str, float] | None = None
    heads: dict[str, TargetCard] | None = Field(None, description="The same of each head, where several.")


class ProvenanceRecord(Record):
    """What the run was made by; with the recipe and the data it can be repeated: ``mmedge run report.json``."""

    command: str | None = Field(None, description="As it was typed, folders left out; absent where Python called.")
    started: str = Field(description="UTC, to the second: of the report, not of stages that were taken from before.")
    code_sha256: str = Field(description="Of mmedge's own source files.")
    versions: dict[str, str] = Field(description="Package -> version, of those that may change a figure.")
