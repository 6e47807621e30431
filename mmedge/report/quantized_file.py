"""report.json of a user's own ONNX file that was quantized: what stands in it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmedge.frozen import Record
from mmedge.machine import Machine
from mmedge.report.schema import CandidateRecord, FusionPointRecord, MissRecord, SensitivityRecord, UnmadeRecord


class CallsRecord(Record):
    """Calls of a user's own ONNX file: half of them calibrate, the others judge."""

    source: str
    calls: int
    calibration: int
    judged: int


class BudgetRecord(Record):
    """What a candidate may lose, and the precision that is required."""

    max_drop: float
    require: str | None


class FileReport(Record):
    """report.json of a user's own ONNX file that was quantized."""

    schema_: Literal[1] = Field(1, alias="schema")
    mmedge: str = Field(description="The version that wrote it.")
    model: str
    model_sha256: str
    machine: Machine
    data: CallsRecord
    judged_by: str
    output: str
    budget: BudgetRecord
    threads: int
    candidates: list[CandidateRecord | UnmadeRecord]
    precision: str
    fusion_points: list[FusionPointRecord] | None = None
    sensitivity: SensitivityRecord | None = None
    notes: list[str]
    misses: list[MissRecord]
    verdict: Literal["pass", "fail"]
    exit: int
