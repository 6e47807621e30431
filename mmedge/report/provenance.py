"""Where a run comes from, as it stands in report.json: its data, its command, its versions and hashes."""

from __future__ import annotations

from pydantic import Field

from mmedge.frozen import Record


class TargetCardRecord(Record):
    """What a split's targets of one head are."""

    labelled: int
    labels: dict[str, int] | None = Field(None, description="Label -> samples that have it.")
    mean: float | None = Field(None, description="Of numbers, in their own unit; as least and most.")
    least: float | None = None
    most: float | None = None


class SplitRecord(Record):
    """One split of the data."""

    n: int
    groups: int = Field(description="Independent groups of samples.")
    missing: dict[str, float] = Field(description="Modality -> share of the samples that lack it.")
    targets: dict[str, TargetCardRecord] = Field(description="Head -> its targets.")


class ProvenanceRecord(Record):
    """What the run was made by; with the recipe and the data it can be repeated: ``mmedge run report.json``."""

    command: str | None = Field(None, description="As it was typed, folders left out; absent where Python called.")
    started: str = Field(description="UTC, to the second: of the report, not of stages that were taken from before.")
    code_sha256: str = Field(description="Of mmedge's own source files.")
    versions: dict[str, str] = Field(description="Package -> version, of those that may change a figure.")
