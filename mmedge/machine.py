"""The machine that figures are taken on: what it is, and what disturbs a measurement on it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import Field

from mmedge.frozen import Record

# Instructions that decide how fast 8- and 16-bit kernels are, as Linux names them.
_TELLING = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip


class Machine(Record):
    """Processor, system and versions, as every report carries them."""

    cpu: str
    cores: int = Field(description="Processors that the process may use.")
    system: str
    python: str
    onnxruntime: str | None


def machine() -> Machine:
    """This machine."""
    return Machine(
        cpu=_cpuinfo("model name") or platform.processor() or platform.machine(),
        cores=cores(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=version("onnxruntime"),
    )


def cores() -> int:
    """Processors that this process may use: in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(package: str) -> str | None:
    """The installed version, without importing the package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_features() -> list[str]:
    """Those of the telling instruction sets that the processor has."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    return [name for name in _TELLING if name in flags]


def _cpuinfo(key: str) -> str | None:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return None


@contextmanager
def nvml() -> Iterator[Any]:
    """The driver's library by its own binding, open meanwhile; raises ``pynvml.NVMLError`` where there is no driver."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


class Gpu(Record):
    """An NVIDIA GPU as its driver describes it; what it does not tell is absent."""

    name: str
    driver: str
    compute_capability: str | None = None
    memory_bytes: int | None = None


def nvidia_gpus() -> list[Gpu]:
    """Every GPU, asked of the driver; none without one."""
    import pynvml

    found: list[Gpu] = []
    with suppress(pynvml.NVMLError), nvml():
        driver = pynvml.nvmlSystemGetDriverVersion()
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            gpu = Gpu(name=pynvml.nvmlDeviceGetName(device), driver=driver)
            with suppress(pynvml.NVMLError):
                capability = "{}.{}".format(*pynvml.nvmlDeviceGetCudaComputeCapability(device))
                gpu = gpu.model_copy(update={"compute_capability": capability})
            with suppress(pynvml.NVMLError):  # a Jetson shares the host's memory and does not tell
                gpu = gpu.model_copy(update={"memory_bytes": pynvml.nvmlDeviceGetMemoryInfo(device).total})
            found.append(gpu)
    return found


def jetson() -> str | None:
    """The board's release line, where this is a Jetson."""
    return _read("/etc/nv_tegra_release").partition("\n")[0].strip("# ") or None


def governor() -> str | None:
    """The frequency governor of the first core; None where the system does not tell."""
    return _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None


def resident_bytes(field: str = "VmRSS") -> int | None:
    """Memory of this process: ``VmRSS`` now, ``VmHWM`` at its peak. None where the system does not tell."""
    for line in _read("/proc/self/status").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


class Watch:
    """What else the machine did while a measurement ran: other processes' share of it, and throttling."""

    def __init__(self) -> None:
        self._wall, self._own, self._all = time.monotonic(), time.process_time(), _busy_seconds()
        self._throttled = _throttle_count()

    def warnings(self) -> list[str]:
        """Sentences for the reader of the figures; none where nothing disturbed them."""
        found = []
        wall, own = time.monotonic() - self._wall, time.process_time() - self._own
        before, after = self._all, _busy_seconds()
        if before is not None and after is not None and wall > 0.5:
            others = (after - before - own) / wall / (os.cpu_count() or 1)
            if others > 0.15:
                found.append(
                    f"other processes used {others:.0%} of the machine meanwhile: ratios hold, single figures may not"
                )
        if _throttle_count() > self._throttled:
            found.append("the processor was throttled by its temperature meanwhile: cool it, or lower the load")
        scaling = governor()
        if scaling not in (None, "performance"):
            found.append(
                f"the power governor is {scaling!r}; for steady figures: sudo cpupower frequency-set -g performance"
            )
        return found


def _busy_seconds() -> float | None:
    """Processor seconds that the whole machine has been busy since it started."""
    fields = _read("/proc/stat").partition("\n")[0].split()[1:]
    if len(fields) < 8:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _throttle_count() -> int:
    files = Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/*_throttle_count")
    return sum(int(_read(str(file)).strip() or 0) for file in files)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def in_words(count: int) -> str:
    """A number of bytes for a reader: 150.5 kB, 1.2 GB."""
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
