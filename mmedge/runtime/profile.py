"""The profiler: the true cost of models on this machine. Needs the base install only, so that it runs on the device."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mmedge
from mmedge.errors import MmedgeError, UsageError
from mmedge.progress import Progress, Silent
from mmedge.runtime import bundle as bundles
from mmedge.runtime import energy, layers
from mmedge.runtime.engine import Engine, load
from mmedge.runtime.machine import Watch, cores, machine, resident_bytes
from mmedge.runtime.sessions import opened
from mmedge.runtime.targets.session import Session, TensorInfo
from mmedge.runtime.timing import ratio_interval, spans, summary, warm_up
from mmedge.spec import AudioSpec, Contract, ImageSpec, ModalitySpec, TabularSpec

# A spread above this share of the mean is told of.
WIDE_SPREAD = 0.3


@dataclass(frozen=True)
class Settings:
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


@dataclass(frozen=True)
class Subject:
    """What is profiled: a model file and its target; the bundle that it is of, where it is of one."""

    name: str
    file: Path
    target: str
    contract: Contract | None = None
    bundle: Path | None = None
    held: Any = None  # keeps what a zip was unpacked into


def subject(path: Path, target: str | None) -> Subject:
    """A bundle (folder or zip), another artifact with a graph in it, or a bare ONNX file."""
    if path.is_dir() or path.suffix == ".zip":
        read = bundles.read(path, any_stage=True)
        found = read.artifact
        contract = Contract.model_validate(found.meta["contract"]) if "contract" in found.meta else None
        name = target or "onnxruntime-cpu"
        if found.stage == "bundle":
            if name not in found.meta["targets"]:
                raise UsageError(
                    f"the bundle has no engine for {name!r}; it has {', '.join(found.meta['targets'])}", where=str(path)
                )
            return Subject(str(path), read.folder / bundles.engine_file(found, name), name, contract, path, read)
        if not found.file("model.onnx").is_file():
            raise UsageError(f"the artifact of stage {found.stage!r} holds no model.onnx", where=str(path))
        return Subject(str(path), found.file("model.onnx"), name, contract)
    if not path.is_file():
        raise MmedgeError("there is no such model", where=str(path), todo="name a bundle, an artifact or an ONNX file")
    return Subject(str(path), path, target or "onnxruntime-cpu")


def measured(paths: Sequence[Path], settings: Settings, progress: Progress | None = None) -> dict[str, Any]:
    """Profile models on this machine; those after the first are compared with it. Returns the record (see the README).

    All models are timed in one interleaved run per batch size. Raises MmedgeError for a model that cannot be run.
    """
    progress, watch = progress or Silent(), Watch()
    subjects = [subject(path, settings.target) for path in paths]
    records = [_cold(each, settings, progress) for each in subjects]
    sessions = [opened(each.file, each.target, threads=settings.threads) for each in subjects]
    engines = [load(each.bundle, each.target, settings.threads) if each.bundle else None for each in subjects]
    warnings: list[str] = []
    for batch in settings.batches:
        _time_batch(batch, subjects, sessions, engines, settings, records, warnings, progress)
    for each, session, record in zip(subjects, sessions, records):
        progress.say(f"profile: idle, streams, energy and layers of {each.name}")
        feed = inputs(session.inputs, settings.batches[0], settings.shapes)
        call = _call(session, feed)
        record["after_idle_ms"] = _after_idle_ms(call, settings.idle_s)
        record["throughput"] = _throughput(call, settings, settings.batches[0])
        gpu = session.parts is not None or each.target == "onnxruntime-cuda"
        record["energy"] = energy.measure(call, seconds=settings.seconds, samples=settings.batches[0], gpu=gpu)
        found = layers.by_target(each.file, each.target, feed, threads=settings.threads)
        if found is None:
            record["layers"] = {"not_available": f"no profile by layer is taken on {each.target}"}
        else:
            record["layers"], record["branches"] = found, layers.by_branch(found)
    return {
        "schema": 1,
        "mmedge": mmedge.__version__,
        "machine": machine(),
        "settings": {
            "threads": settings.threads,
            "batches": list(settings.batches),
            "runs": settings.runs,
            "idle_s": settings.idle_s,
        },
        "models": records,
        "warnings": [*warnings, *watch.warnings()],
    }


def _time_batch(
    batch: int,
    subjects: list[Subject],
    sessions: list[Session],
    engines: list[Engine | None],
    settings: Settings,
    records: list[dict[str, Any]],
    warnings: list[str],
    progress: Progress,
) -> None:
    """Compute and end to end of every model at one batch size, all in turn."""
    calls: dict[str, Callable[[], Any]] = {}
    for number, (session, engine) in enumerate(zip(sessions, engines)):
        calls[f"compute {number}"] = _call(session, inputs(session.inputs, batch, settings.shapes))
        if engine is not None:
            calls[f"end to end {number}"] = _predict(engine, raw_values(engine.contract, batch))
    settled = {name: warm_up(call) for name, call in calls.items()}
    taken = spans(
        calls,
        runs=settings.runs,
        warmup=0,
        step=lambda done, total: progress.step(f"timing batch {batch}", done, total, f"{len(calls)} calls in turn"),
    )
    timings = {name: summary(times) for name, times in taken.items()}
    for number, (record, session) in enumerate(zip(records, sessions)):
        compute, end = timings[f"compute {number}"], timings.get(f"end to end {number}")
        warmed, stable = settled[f"compute {number}"]
        entry: dict[str, Any] = {
            "batch": batch,
            "warm_up": {"runs": warmed, "stable": stable},
            "compute": compute.record(),
            "end_to_end": end.record()
            if end
            else {"not_available": "a bare graph has no preprocessing; profile its bundle"},
            "spans_us": [round(value / 1000, 2) for value in taken[f"compute {number}"].tolist()],
        }
        if session.parts is not None:
            entry["parts_ms"] = session.parts()
        if number:
            low, high = ratio_interval(taken[f"compute {number}"], taken["compute 0"])
            entry["ratio_to_first"] = {
                "value": compute.p50_ms / timings["compute 0"].p50_ms,
                "ci95": [low, high],
            }
        record["batches"].append(entry)
        where = f"{subjects[number].name}, batch {batch}"
        if compute.cv > WIDE_SPREAD:
            warnings.append(
                f"{where}: wide spread (cv {compute.cv:.2f}, p99 {compute.p99_ms / compute.p50_ms:.1f} x p50); look at the percentiles, not at the mean"
            )
        if not stable:
            warnings.append(f"{where}: the latency did not settle in {warmed} warm-up runs")


def parsed_shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``INPUT=N,N`` of the command line -> {input: shape}."""
    shapes = {}
    for item in given:
        name, _, sizes = item.partition("=")
        if not name or not all(size.isdigit() and int(size) for size in sizes.split(",")):
            raise UsageError(f"--shape wants INPUT=N,N with sizes of at least 1, not {item!r}")
        shapes[name] = tuple(map(int, sizes.split(",")))
    return shapes


def inputs(
    taken: Mapping[str, TensorInfo], batch: int, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, np.ndarray]:
    """Inputs to time a graph with: normal noise for floats, True for booleans, zeros for integers.

    ``shapes``: {input: shape without the batch axis} where axes other than the first are dynamic.
    """
    random, feed = np.random.default_rng(0), {}
    unknown = (shapes or {}).keys() - taken.keys()
    if unknown:
        raise UsageError(f"the model has no input {sorted(unknown)[0]!r}; it has {', '.join(taken)}")
    for name, info in taken.items():
        rest = (shapes or {}).get(name, info.shape[1:])
        if None in rest:
            raise UsageError(
                f"the input {name} has dynamic axes: {list(info.shape)}",
                todo=f"give its shape without the batch: --shape {name}={','.join(str(size or 128) for size in rest)}",
            )
        shape: tuple[int, ...] = () if not info.shape else (info.shape[0] or batch, *(size for size in rest if size))
        match info.dtype.kind:
            case "f":
                feed[name] = random.standard_normal(shape).astype(info.dtype)
            case "b":
                feed[name] = np.ones(shape, bool)
            case _:
                feed[name] = np.zeros(shape, info.dtype)
    return feed


def raw_values(contract: Contract, batch: int) -> dict[str, list[Any]]:
    """Raw samples as an app would give them: PNG and WAV bytes of the model's own size and length, numbers, arrays."""
    random = np.random.default_rng(0)
    return {name: [_raw(spec, random) for _ in range(batch)] for name, spec in contract.modalities.items()}


def _raw(spec: ModalitySpec, random: np.random.Generator) -> Any:
    buffer = io.BytesIO()
    kind: str = spec.kind
    if isinstance(spec, ImageSpec):
        from PIL import Image

        pixels = random.integers(0, 256, (spec.height, spec.width, 3), np.uint8)
        Image.fromarray(pixels[:, :, 0] if spec.channels == 1 else pixels).save(buffer, "PNG")
        return buffer.getvalue()
    if isinstance(spec, AudioSpec):
        with wave.open(buffer, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(spec.sample_rate)
            sound.writeframes(random.normal(0, 3000, spec.samples).astype("<i2").tobytes())
        return buffer.getvalue()
    if isinstance(spec, TabularSpec):
        words = dict.fromkeys(getattr(spec, "categorical", ()), "a word")
        return {**dict(zip(spec.columns, random.normal(size=len(spec.columns)).tolist())), **words}
    if kind == "text":
        return " ".join(["word"] * spec.shape[0])
    return random.standard_normal(spec.shape).astype(np.float32)


def _call(session: Session, feed: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    return lambda: session.run(feed)


def _predict(engine: Engine, raw: Mapping[str, list[Any]]) -> Callable[[], Any]:
    return lambda: engine.predict(**raw)


def _cold(each: Subject, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Load time, first inference and memory, in a process of its own: in this one much is loaded and warm already."""
    progress.say(f"profile: loading {each.name} in a fresh process")
    record: dict[str, Any] = {
        "name": each.name,
        "target": each.target,
        "size_bytes": each.file.stat().st_size,
        "batches": [],
    }
    task = {
        "file": str(each.file),
        "target": each.target,
        "threads": settings.threads,
        "batch": settings.batches[0],
        "shapes": {name: list(shape) for name, shape in settings.shapes.items()},
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path[:] = {sys.path!r}; from mmedge.runtime import profile; profile.cold()",
        ],
        input=json.dumps(task),
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        record |= json.loads(done.stdout)
    else:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        for name in ("load_ms", "first_inference_ms", "memory"):
            record[name] = {"not_available": f"the fresh process failed: {reason}"}
    return record


def cold() -> None:
    """The body of the fresh process: a task as JSON on stdin, figures as JSON on stdout."""
    task = json.load(sys.stdin)
    before = resident_bytes()
    start = time.perf_counter()
    session = opened(Path(task["file"]), task["target"], threads=task["threads"])
    loaded = time.perf_counter()
    feed = inputs(session.inputs, task["batch"], {name: tuple(shape) for name, shape in task["shapes"].items()})
    first = time.perf_counter()
    session.run(feed)
    first_ms = (time.perf_counter() - first) * 1000
    for _ in range(20):
        session.run(feed)
    peak = resident_bytes("VmHWM")
    memory: dict[str, Any] = (
        {"not_available": "this system has no /proc/self/status"}
        if before is None or peak is None
        else {"host_peak_bytes": peak, "host_before_load_bytes": before}
    )
    device = energy.gpu_memory_bytes()
    memory |= {"device": {"not_available": "no NVIDIA GPU"} if device is None else {"used_bytes": device}}
    print(json.dumps({"load_ms": (loaded - start) * 1000, "first_inference_ms": first_ms, "memory": memory}))


def _after_idle_ms(call: Callable[[], Any], idle_s: float) -> float:
    """The median of three inferences that each follow a pause: caches and clocks have gone down."""
    spans = []
    for _ in range(3):
        time.sleep(idle_s)
        start = time.perf_counter()
        call()
        spans.append((time.perf_counter() - start) * 1000)
    return float(np.median(spans))


def _throughput(call: Callable[[], Any], settings: Settings, batch: int) -> list[dict[str, Any]]:
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
        rows.append({"streams": streams, "samples_per_s": sum(counts) * batch / (time.perf_counter() - start)})
    return rows
