"""A profile's record: what stands in profile.json. A figure that could not be taken says why in its place."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmedge.frozen import Record
from mmedge.machine import Machine
from mmedge.profiling.timing import Timing


class NotAvailable(Record):
    """Stands where a figure would, with the reason why there is none."""

    not_available: str


class DeviceMemoryRecord(Record):
    """Memory of the GPU in use."""

    used_bytes: int


class MemoryRecord(Record):
    """Memory of a process that loads the model and runs it; of the host where the system tells it."""

    host_peak_bytes: int | None = None
    host_before_load_bytes: int | None = None
    not_available: str | None = None
    device: DeviceMemoryRecord | NotAvailable | None = None


class ColdRecord(Record):
    """What a fresh process took, where nothing was loaded and warm."""

    load_ms: float | NotAvailable
    first_inference_ms: float | NotAvailable
    memory: MemoryRecord


class WarmUpRecord(Record):
    """The runs before the timed ones, and whether the latency was stable after them."""

    runs: int
    stable: bool


class RatioRecord(Record):
    """A median over the first model's."""

    value: float
    ci95: tuple[float, float]


class BatchRecord(Record):
    """A model at one batch size. ``end_to_end``: of bundles; ``parts_ms``: on a GPU."""

    batch: int
    warm_up: WarmUpRecord
    compute: Timing
    end_to_end: Timing | NotAvailable
    spans_us: list[float]
    parts_ms: dict[str, float] | None = None
    ratio_to_first: RatioRecord | None = None


class ThroughputRecord(Record):
    """Samples a second with so many callers at once."""

    streams: int
    samples_per_s: float


class EnergyRecord(Record):
    """Of one sample, and the mean power meanwhile: of the whole package or board, idle power and others' work included."""

    source: str
    mj_per_inference: float
    mean_watts: float


class LayerRecord(Record):
    """A layer with its share of all layers' time, which is to be believed more than the time: the profiler takes its own."""

    name: str
    kind: str
    branch: str
    mean_us: float
    share: float


class ModelRecord(ColdRecord):
    """One model. ``branches``: shares of the layers' time, where layers were timed, by what ``layers_basis`` says."""

    name: str
    target: str
    size_bytes: int
    batches: list[BatchRecord]
    after_idle_ms: float
    throughput: list[ThroughputRecord]
    energy: EnergyRecord | NotAvailable
    layers: list[LayerRecord] | NotAvailable
    layers_basis: str | None = None
    branches: dict[str, float] | None = None


class SettingsRecord(Record):
    """How it was measured."""

    threads: int
    batches: list[int]
    runs: int
    idle_s: float


class ProfiledMachine(Machine):
    """The machine that was measured, with the frequency governor of its first core."""

    governor: str | NotAvailable


class RemoteRecord(Record):
    """The device that was measured from afar."""

    host: str
    target: str


class ProfileRecord(Record):
    """profile.json."""

    schema_: Literal[1] = Field(1, alias="schema")
    mmedge: str
    machine: ProfiledMachine
    settings: SettingsRecord
    models: list[ModelRecord]
    warnings: list[str]
    device: RemoteRecord | None = None
