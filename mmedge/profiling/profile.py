"""The profiler: the true cost of models on this machine. Needs the base install only, so that it runs on the device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import mmedge
from mmedge import bundle as bundles
from mmedge.artifact import contract_of
from mmedge.backends import GRAPH_BACKEND, Session, opened
from mmedge.backends.onnxfile import content_sha256, size_bytes
from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError, first_line
from mmedge.machine import Watch, cores, governor, machine
from mmedge.profiling import cold, energy, feeds, layers
from mmedge.profiling.record import (
    BatchRecord,
    ColdRecord,
    ModelRecord,
    NotAvailable,
    ProfiledMachine,
    ProfileRecord,
    RatioRecord,
    SettingsRecord,
    ThroughputRecord,
    WarmUpRecord,
)
from mmedge.profiling.timing import WIDE_SPREAD, Sittings, Timing, median_ns, ratio_interval, sittings, spans, summary
from mmedge.progress import Progress, Silent
from mmedge.runtime.engine import Engine, load
from mmedge.runtime.warming import warm_up

_LONGEST_S = 3600


@dataclass(frozen=True)
class ProfileOptions:
    """What to measure. ``shapes``: {input: shape} for dynamic axes other than the batch. ``seconds``: of each throughput
    and energy measurement. ``idle_s``: the pause before an after-idle inference."""

    target: str | None = None
    batches: tuple[int, ...] = (1,)
    threads: int = 1
    runs: int = 500
    streams: tuple[int, ...] = ()
    seconds: float = 1.0
    idle_s: float = 1.0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.batches, default=0) < 1 or self.runs < 20:
            raise UsageError("batches have at least 1 sample, and at least 20 runs are timed")
        if not (0 <= self.idle_s <= _LONGEST_S and 0 < self.seconds <= _LONGEST_S):  # NaN is neither
            raise UsageError(f"pauses and measurements last {_LONGEST_S} seconds at most")


@dataclass(frozen=True)
class Subject:
    """What is profiled: a model file and its target; the bundle that it is of, where it is of one."""

    name: str
    file: Path
    target: str
    contract: Contract | None = None
    bundle: Path | None = None
    held: Any = None  # keeps what a zip was unpacked into

    def shapes(self, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """``given``, and for other inputs of a dynamic length the longest."""
        specs = self.contract.modalities.items() if self.contract else ()
        return {name: spec.shape for name, spec in specs if spec.shortest is not None} | dict(given)


def subject(path: Path, target: str | None) -> Subject:
    """A bundle (folder or zip), another artifact with a graph in it, or a bare ONNX file."""
    if path.is_dir() or path.suffix.lower() == ".zip":
        read = bundles.read(path, any_stage=True)
        found = read.artifact
        contract = contract_of(found) if "contract" in found.meta or found.stage == "bundle" else None
        name = target or GRAPH_BACKEND
        if found.stage == "bundle":
            file = bundles.verified_file(found, bundles.entry_of(found, name).opened_file(name))
            return Subject(str(path), file, name, contract, path, read)
        if not found.file("model.onnx").is_file():
            raise UsageError(
                f"the artifact of stage {found.stage!r} holds no model.onnx", where=str(path), todo="name a bundle"
            )
        return Subject(str(path), found.file("model.onnx"), name, contract)
    if not path.is_file():
        raise MmedgeError("there is no such model", where=str(path), todo="name a bundle, an artifact or an ONNX file")
    return Subject(str(path), path, target or GRAPH_BACKEND)


def measured(paths: Sequence[Path], settings: ProfileOptions, progress: Progress | None = None) -> ProfileRecord:
    """Profile models on this machine; those after the first are compared with it. Returns the record (see the README).

    All models are timed in one interleaved run per batch size. Raises MmedgeError for a model that cannot be run.
    """
    progress, watch = progress or Silent(), Watch()
    subjects = [subject(path, settings.target) for path in paths]
    sessions = [opened(each.file, each.target, threads=settings.threads) for each in subjects]
    for each, session in zip(subjects, sessions):
        for batch in settings.batches:  # what cannot be fed is told before anything is measured
            feeds.sizes(session.inputs, batch, each.shapes(settings.shapes))
    fresh = [_cold(each, settings, progress) for each in subjects]
    models = [
        Model(each, session, load(each.bundle, each.target, settings.threads) if each.bundle else None)
        for each, session in zip(subjects, sessions)
    ]
    warnings: list[str] = []
    batches: list[list[BatchRecord]] = [[] for _ in models]
    for batch in settings.batches:
        for model, taken, figures in zip(models, batches, _time_batch(batch, models, settings, progress)):
            taken.append(figures.record())
            warnings += figures.warnings(f"{model.subject.name}, batch {batch}")
    records = []
    for model, cold_figures, taken in zip(models, fresh, batches):
        progress.say(f"profile: idle, streams, energy and layers of {model.subject.name}")
        records.append(_whole(model, cold_figures, taken, settings))
    return ProfileRecord(
        schema=1,
        mmedge=mmedge.__version__,
        machine=ProfiledMachine(
            **machine().record(), governor=governor() or NotAvailable(not_available="the system does not tell one")
        ),
        settings=SettingsRecord(
            threads=settings.threads, batches=list(settings.batches), runs=settings.runs, idle_s=settings.idle_s
        ),
        models=records,
        warnings=[*warnings, *watch.warnings()],
    )


@dataclass(frozen=True)
class Model:
    """A subject that is opened: its session, and the engine of its bundle where it is of one."""

    subject: Subject
    session: Session
    engine: Engine | None


@dataclass(frozen=True)
class BatchFigures:
    """What one model took at one batch size. ``compute``, ``first``: its spans and the first model's.

    ``settled``: the warm-up runs, and whether the latency was stable after them. ``whole``: end to end, of bundles.
    ``parts_ms``: on a GPU, by part.
    """

    batch: int
    settled: tuple[int, bool]
    compute: Sittings
    first: Sittings | None
    whole: Timing | None
    parts_ms: dict[str, float] | None

    def record(self) -> BatchRecord:
        """As it stands in the profile."""
        record = BatchRecord(
            batch=self.batch,
            warm_up=WarmUpRecord(runs=self.settled[0], stable=self.settled[1]),
            compute=summary(self.compute),
            end_to_end=self.whole
            or NotAvailable(not_available="a bare graph has no preprocessing; profile its bundle"),
            spans_us=[round(value / 1000, 2) for value in np.concatenate(self.compute).tolist()],
        )
        if self.parts_ms is not None:
            record = record.model_copy(update={"parts_ms": self.parts_ms})
        if self.first is None:
            return record
        value = median_ns(self.compute) / median_ns(self.first)
        ratio = RatioRecord(value=value, ci95=ratio_interval(self.compute, self.first))
        return record.model_copy(update={"ratio_to_first": ratio})

    def warnings(self, where: str) -> list[str]:
        """What a reader of the figures must know of them."""
        found, timing = [], summary(self.compute)
        if timing.cv > WIDE_SPREAD:
            found.append(
                f"{where}: wide spread (cv {timing.cv:.2f}, p99 {timing.p99_ms / timing.p50_ms:.1f} x p50); look at the percentiles, not at the mean"
            )
        if not self.settled[1]:
            found.append(f"{where}: the latency did not settle in {self.settled[0]} warm-up runs")
        return found


def _cold(each: Subject, settings: ProfileOptions, progress: Progress) -> ColdRecord:
    progress.say(f"profile: loading {each.name} in a fresh process")
    return cold.measured(
        each.file, each.target, threads=settings.threads, batch=settings.batches[0], shapes=each.shapes(settings.shapes)
    )


def _whole(model: Model, fresh: ColdRecord, batches: list[BatchRecord], settings: ProfileOptions) -> ModelRecord:
    """All of a model, with what is measured once, at the first batch size: after idle, throughput, energy and layers."""
    each, session, batch = model.subject, model.session, settings.batches[0]
    feed = feeds.tensors(session.inputs, batch, each.shapes(settings.shapes))
    call = _call(session, feed)
    used = energy.measure(call, seconds=settings.seconds, samples=batch, gpu=session.parts is not None)
    after_idle_ms, throughput = _after_idle_ms(call, settings.idle_s), _throughput(call, settings, batch)
    rows, basis = layers.by_layer(each.file, each.target, feed, settings.threads)
    record = ModelRecord(
        name=each.name,
        target=each.target,
        size_bytes=size_bytes(each.file),
        batches=batches,
        load_ms=fresh.load_ms,
        first_inference_ms=fresh.first_inference_ms,
        memory=fresh.memory,
        after_idle_ms=after_idle_ms,
        throughput=throughput,
        energy=NotAvailable(not_available=used) if isinstance(used, str) else used,
        layers=rows or NotAvailable(not_available=basis),
    )
    return record.model_copy(update={"layers_basis": basis, "branches": layers.by_branch(rows)}) if rows else record


def _time_batch(
    batch: int, models: Sequence[Model], settings: ProfileOptions, progress: Progress
) -> list[BatchFigures]:
    """Every model's figures for one batch size.

    Compute is timed with all models in turn, and so is end to end, but not the one among the other: after a picture was
    decoded, a small graph finds its caches cold, and its figure would not be that of the graph.
    """
    feed = [feeds.tensors(model.session.inputs, batch, model.subject.shapes(settings.shapes)) for model in models]
    calls = [_call(model.session, given) for model, given in zip(models, feed)]
    for model, call in zip(models, calls):
        _try(call, model.subject)
    settled = [warm_up(call) for call in calls]
    taken = _computes(batch, models, feed, settings, progress)
    ends = {
        number: _predict(model.engine, feeds.raw_values(model.engine.contract, batch))
        for number, model in enumerate(models)
        if model.engine is not None
    }
    for call in ends.values():
        warm_up(call)
    what = f"timing end to end, batch {batch}"
    whole = spans(ends, runs=settings.runs, warmup=0, step=partial(_step, progress, what, len(ends)))
    return [
        BatchFigures(
            batch,
            settled[number],
            taken[number],
            taken[0] if number else None,
            summary(whole[number]) if number in whole else None,
            _parts(model.session, calls[number]) if model.session.parts is not None else None,
        )
        for number, model in enumerate(models)
    ]


def _computes(
    batch: int,
    models: Sequence[Model],
    feed: Sequence[Mapping[str, np.ndarray]],
    settings: ProfileOptions,
    progress: Progress,
) -> list[Sittings]:
    """Every model's spans, opened anew for each sitting; models that are one file are timed once.

    A model alone, which is compared with none, is timed in the session that is there.
    """
    stands = [(model.subject.target, content_sha256(model.subject.file)) for model in models]
    each = {key: number for number, key in reversed(list(enumerate(stands)))}
    step = partial(_step, progress, f"timing compute, batch {batch}", len(each))
    if len(each) == 1:
        alone = [spans({0: _call(models[0].session, feed[0])}, runs=settings.runs, warmup=0, step=step)[0]]
        return [alone] * len(models)

    def opener(number: int) -> Callable[[], Callable[[], Any]]:
        named = models[number].subject
        return lambda: _call(opened(named.file, named.target, threads=settings.threads), feed[number])

    openers = {key: opener(number) for key, number in each.items()}
    taken = sittings(openers, runs=settings.runs, warmup=settings.runs // 10, step=step)
    return [taken[key] for key in stands]


def _step(progress: Progress, what: str, count: int, done: int, total: int) -> None:
    progress.step(what, done, total, f"{count} in turn")


def _try(call: Callable[[], Any], each: Subject) -> None:
    """A model that loads and does not run is told of; the targets' exceptions share no base class."""
    try:
        call()
    except MmedgeError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise MmedgeError(
            f"the model does not run: {reason}",
            where=each.name,
            todo="look whether --shape, --batch and the target are right for it",
        ) from error


def _parts(session: Session, call: Callable[[], Any], runs: int = 50) -> dict[str, float]:
    """Milliseconds by part on a GPU (copies to it and back, compute): medians over ``runs``."""
    assert session.parts is not None
    rows = []
    for _ in range(runs):
        call()
        rows.append(session.parts())
    return {part: float(np.median([row[part] for row in rows])) for part in rows[0]}


def _call(session: Session, feed: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    return partial(session.run, feed)  # beside a small graph a Python frame more would be seen


def _predict(engine: Engine, raw: Mapping[str, list[Any]]) -> Callable[[], Any]:
    return lambda: engine.predict(**raw)


def _after_idle_ms(call: Callable[[], Any], idle_s: float) -> float:
    """The median of three inferences that each follow a pause: caches and clocks have gone down."""
    spans = []
    for _ in range(3):
        time.sleep(idle_s)
        start = time.perf_counter()
        call()
        spans.append((time.perf_counter() - start) * 1000)
    return float(np.median(spans))


def _throughput(call: Callable[[], Any], settings: ProfileOptions, batch: int) -> list[ThroughputRecord]:
    """Samples a second with 1, 2, 4 … callers at once, up to the machine's cores."""
    wanted = settings.streams or tuple(sorted({count for count in (1, 2, 4, 8, cores()) if count <= cores()}))
    rows = []
    for streams in wanted:
        counts, until = [0] * streams, time.perf_counter() + settings.seconds
        start = time.perf_counter()

        def work(number: int, counts: list[int] = counts, until: float = until) -> None:
            while time.perf_counter() < until:
                call()
                counts[number] += 1

        workers = [threading.Thread(target=work, args=(number,)) for number in range(streams)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        rate = sum(counts) * batch / (time.perf_counter() - start)
        rows.append(ThroughputRecord(streams=streams, samples_per_s=rate))
    return rows
