"""What each stage returns: its part of the manifest and of the report. The files it wrote lie in ``context.folder``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue
from typing_extensions import Self

from mmedge.artifact import Artifact
from mmedge.backends import GRAPH_BACKEND
from mmedge.backends.engine import Engine
from mmedge.bundle import Contents
from mmedge.frozen import Record
from mmedge.report.pruning import PruningRecord
from mmedge.report.schema import (
    AgreementRecord,
    CalibrationRecord,
    CandidateRecord,
    DecisionRecord,
    FusionPointRecord,
    LatencyRecord,
    MissRecord,
    PrivacyRecord,
    SensitivityRecord,
    StageRecord,
    TriedLossRecord,
    UnmadeRecord,
)
from mmedge.tasks.retrieval import ZeroShot

# The target of a teacher that is not exported.
TORCH = "pytorch"


class ComparedRecord(Record):
    """Which students a control compares, by their folders' names, and which modalities both are shown; null for all."""

    students: str
    against: str
    shown: list[str] | None


class StageResult(Record):
    """What a stage says of its artifact: the manifest's ``meta``. ``misses``: budgets that it judged and could not meet.

    ``model``: the recipe's section that the network is built from again, where there is one. ``target``: the backend that
    the artifact runs on, by the ``engine`` that was built, else by its graph; ``latency``, where the stage took it there.
    ``controls``: what it is compared with.
    """

    # What the report repeats.
    reported: ClassVar[tuple[str, ...]] = ("params", "macs", "verification", "privacy")

    contract: dict[str, JsonValue]
    recipe: dict[str, JsonValue]
    notes: list[str]
    model: dict[str, JsonValue] | None = None
    params: int | None = None
    macs: int | None = None
    verification: list[AgreementRecord] | None = None
    privacy: PrivacyRecord | None = None
    misses: list[MissRecord] = []
    target: str = GRAPH_BACKEND
    engine: Engine | None = None
    latency: LatencyRecord | None = None
    students: list[str] = []
    controls: dict[str, ComparedRecord] = {}

    @classmethod
    def like(cls, parent: Artifact, notes: list[str]) -> StageResult:
        """Of what another form of the parent's network is: with its contract, its recipe and its size."""
        names = ("contract", "params", "macs", "recipe", "privacy")
        return StageResult(**{name: parent.meta[name] for name in names if name in parent.meta}, notes=notes)

    @classmethod
    def of(cls, written: StageResult, **more: Any) -> Self:
        """This stage's result: what was written, and ``more``, of which None says nothing."""
        same = {name: getattr(written, name) for name in written.model_fields_set}
        return cls.model_validate({**same, **{name: value for name, value in more.items() if value is not None}})

    def added_to(self, record: StageRecord) -> StageRecord:
        """The stage's record in the report, with what it repeats of this result."""
        names = [name for name in self.reported if name in self.model_fields_set]
        return record.model_copy(update={name: getattr(self, name) for name in names})


class DistillResult(StageResult):
    """The student that ships, and every other one that was trained beside it."""

    reported = (*StageResult.reported, "decision", "losses")

    decision: DecisionRecord | None = None
    loss: dict[str, JsonValue] | None = None
    losses: list[TriedLossRecord] | None = None


class PruneResult(StageResult):
    """The narrowed network, or its parent. ``taught``, ``loss``: how the student was taught, for stages that go on."""

    reported = (*StageResult.reported, "pruning")

    pruning: PruningRecord | None = None
    taught: bool | None = None
    loss: dict[str, JsonValue] | None = None


class QuantizeResult(StageResult):
    """The candidates that were made of one graph, and the one that is taken."""

    reported = (*StageResult.reported, "precision", "candidates", "calibration", "fusion_points", "sensitivity")

    precision: str = "fp32"
    candidates: list[CandidateRecord | UnmadeRecord] = []
    calibration: CalibrationRecord | None = None
    fusion_points: list[FusionPointRecord] | None = None
    sensitivity: SensitivityRecord | None = None


class SubsetRecord(Record):
    """The engine of a subset of the modalities; latency only where the backend runs here."""

    file: str
    p50_ms: float | None = None
    ratio_to_all: float | None = None


class SplitRecord(Record):
    """Encoders and fusion head apart."""

    files: dict[str, str]
    embeddings: dict[str, list[str]]


class TowersRecord(Record):
    """Towers that ship alone, in a folder of the artifact: what they promise, and the ``engine`` that was built of them."""

    contract: dict[str, JsonValue]
    engine: Engine | None = None


class ExportResult(StageResult):
    """One backend's engine. ``candidate``: which of the parent's it was built from."""

    reported = (*StageResult.reported, "precision")

    precision: str
    candidate: str
    subsets: dict[str, SubsetRecord] | None = None
    split: SplitRecord | None = None
    towers: TowersRecord | None = None
    zero_shot: ZeroShot | None = None


class FileRecord(Record):
    """A file of an artifact."""

    sha256: str
    size_bytes: int


class Manifest(Record):
    """manifest.json of an artifact or a bundle. ``sha256``: of all that stands beside it; ``parent``: the parent's."""

    schema_: Literal[1] = Field(1, alias="schema")
    mmedge: str = Field(description="The version that wrote it.")
    stage: str
    key: str = Field(description="Hash of all that the outcome depends on.")
    parent: str | None
    files: dict[str, FileRecord]
    meta: Contents | ExportResult | QuantizeResult | PruneResult | DistillResult | StageResult
    sha256: str
