"""How a cut was chosen: what the report says of pruning."""

from __future__ import annotations

from pydantic import Field

from mmedge.frozen import Record
from mmedge.report import Figures, Interval


class ScoreRecord(Record):
    """A model on the validation split, with everything and with every subset of the modalities."""

    quality: float
    subsets: Figures


class OptionRecord(Record):
    """A branch narrowed alone by ``ratio``: the shares of the parent's costs that are left, and what it loses."""

    branch: str
    ratio: float
    left: Figures
    loss: float
    quality: float
    subsets: Figures


class BranchRecord(Record):
    """A branch, what was measured of it, and the share of it that was removed."""

    branch: str
    layers: list[str]
    channels: int
    options: list[OptionRecord]
    ratio: float


class AttemptRecord(Record):
    """A cut; what it lost on validation only where it was recovered."""

    step: int
    ratios: Figures
    predicted: Figures
    in_budget: bool
    left: Figures
    latency_ci95: Interval
    faster: bool
    passed: bool
    why: str
    zeros: float | None = Field(None, description="The share of the weights that prune.sparsity made zero.")
    quality: float | None = None
    subsets: Figures | None = None
    drop: float | None = None
    drop_ci95: Interval | None = None
    drop_bound: float | None = Field(None, description="The most that it may truly lose; must be inside the budget.")
    worst_subset: str | None = None
    worst_subset_drop: float | None = None


class PruningRecord(Record):
    """How the cut was chosen. ``kept``: the number of the attempt, null where the parent is returned."""

    allocation: str
    importance: str
    limits: Figures
    round_to: int
    round_to_ms: Figures | None = None
    probe_steps: int
    parent: ScoreRecord
    branches: list[BranchRecord]
    not_prunable: dict[str, str]
    attempts: list[AttemptRecord]
    kept: int | None
