"""Energy of a stretch of work, from the sensors that the machine has: NVML, Jetson's INA3221, or Intel's RAPL."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmedge.machine import nvml
from mmedge.profiling.record import EnergyRecord


@dataclass(frozen=True)
class Meter:
    """A source of energy figures. ``joules()`` counts up from an arbitrary start; ``close()`` ends its reading."""

    source: str
    joules: Callable[[], float]
    close: Callable[[], None] = lambda: None


def meter(*, gpu: bool = False) -> Meter | str:
    """The meter for work on the GPU or the processor; where there is none, the reason."""
    reasons = []
    for make in (_nvml, _jetson) if gpu else (_jetson, _rapl):
        found = make()
        if isinstance(found, Meter):
            return found
        reasons.append(found)
    return "; ".join(reasons)


def measure(call: Callable[[], Any], *, seconds: float, samples: int, gpu: bool = False) -> EnergyRecord | str:
    """The energy of one sample while ``call``, which computes ``samples`` of them, is repeated for ``seconds``; or why not."""
    found = meter(gpu=gpu)
    if isinstance(found, str):
        return found
    try:
        count, start, before = 0, time.perf_counter(), found.joules()
        while (elapsed := time.perf_counter() - start) < seconds:
            call()
            count += 1
        used = found.joules() - before
    finally:
        found.close()
    if used <= 0:
        return f"{found.source} did not change in {seconds:g} s"
    return EnergyRecord(
        source=found.source, mj_per_inference=used * 1000 / (count * samples), mean_watts=used / elapsed
    )


def _nvml() -> Meter | str:
    """The GPU's own counter, through the driver's library."""
    import pynvml

    try:
        with nvml():  # as on a Jetson, whose GPU has no counter
            pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError as error:
        return f"NVML: {error}"
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    return Meter("NVML, GPU 0", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(device) / 1000, pynvml.nvmlShutdown)


def gpu_memory_bytes() -> int | None:
    """Memory in use on the first GPU, by every process; None where there is none that tells."""
    import pynvml

    with suppress(pynvml.NVMLError), nvml():
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
    return None


def _jetson(root: Path = Path("/sys/bus/i2c/drivers/ina3221")) -> Meter | str:
    """The board's input rail: voltage times current, summed up every 10 ms by a thread."""
    rail = next(
        (
            (label.parent / f"in{number}_input", label.parent / f"curr{number}_input")
            for label in sorted(root.glob("*/hwmon/hwmon*/in*_label"))
            if _text(label) in ("VDD_IN", "POM_5V_IN", "CPU+GPU+CV", "VDD_TOTAL")
            and (number := label.name.removeprefix("in").removesuffix("_label"))
        ),
        None,
    )
    if rail is None:
        return "Jetson: no INA3221 sensor"
    total, done = 0.0, threading.Event()

    def sample() -> None:
        nonlocal total
        last = time.perf_counter()
        while not done.wait(0.01):
            now = time.perf_counter()
            total += int(_text(rail[0]) or 0) * int(_text(rail[1]) or 0) / 1e6 * (now - last)  # mV x mA
            last = now

    threading.Thread(target=sample, daemon=True).start()
    return Meter("INA3221, whole board", lambda: total, done.set)


def _rapl(root: Path = Path("/sys/class/powercap/intel-rapl:0")) -> Meter | str:
    """The processor package's counter; it wraps around."""
    counter = root / "energy_uj"
    if not counter.exists():
        return "RAPL: the system offers no counter"
    if not os.access(counter, os.R_OK):
        return f"RAPL: {counter} may be read by root only"
    limit, last, total = int(_text(root / "max_energy_range_uj") or 1 << 32), int(_text(counter)), 0

    def joules() -> float:
        nonlocal last, total
        now = int(_text(counter))
        total, last = total + (now - last) % limit, now
        return total / 1e6

    return Meter("RAPL, processor package", joules)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
