"""Load time, first inference and memory of a model in a process of its own, where nothing is loaded and warm yet."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from mmedge import backends
from mmedge.machine import resident_bytes
from mmedge.profiling import energy, feeds
from mmedge.profiling.record import ColdRecord, DeviceMemoryRecord, MemoryRecord, NotAvailable


def measured(
    file: Path, backend: str, *, threads: int, batch: int, shapes: Mapping[str, tuple[int, ...]]
) -> ColdRecord:
    """Each a figure, or why there is none."""
    task = {"file": str(file), "backend": [backend, backends.BACKENDS[backend]], "threads": threads, "batch": batch}
    code = f"import sys; sys.path[:] = {sys.path!r}; from mmedge.profiling import cold; cold.main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps({**task, "shapes": {name: list(shape) for name, shape in shapes.items()}}),
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return ColdRecord.model_validate_json(done.stdout)
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    why = f"the fresh process failed: {reason}"
    missing = NotAvailable(not_available=why)
    return ColdRecord(load_ms=missing, first_inference_ms=missing, memory=MemoryRecord(not_available=why))


def main() -> None:
    """The body of the fresh process: a task as JSON on stdin, figures as JSON on stdout."""
    task = json.load(sys.stdin)
    name, module = task["backend"]
    backends.BACKENDS[name] = module  # the row of the process that asks
    before = resident_bytes()
    start = time.perf_counter()
    session = backends.opened(Path(task["file"]), name, threads=task["threads"])
    loaded = time.perf_counter()
    feed = feeds.tensors(session.inputs, task["batch"], {name: tuple(shape) for name, shape in task["shapes"].items()})
    first = time.perf_counter()
    session.run(feed)
    first_ms = (time.perf_counter() - first) * 1000
    for _ in range(20):
        session.run(feed)
    peak = resident_bytes("VmHWM")
    used = energy.gpu_memory_bytes()
    device = NotAvailable(not_available="no NVIDIA GPU") if used is None else DeviceMemoryRecord(used_bytes=used)
    memory = (
        MemoryRecord(not_available="this system has no /proc/self/status", device=device)
        if before is None or peak is None
        else MemoryRecord(host_peak_bytes=peak, host_before_load_bytes=before, device=device)
    )
    cold = ColdRecord(load_ms=(loaded - start) * 1000, first_inference_ms=first_ms, memory=memory)
    print(json.dumps(cold.record()))
