"""What this machine can do: processor, GPUs, versions, and for every target what is missing and the command to get it."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.util import find_spec

import mmedge
from mmedge.backends import BACKENDS, Missing, find
from mmedge.backends.missing import providers
from mmedge.frozen import Record
from mmedge.machine import Gpu, Machine, cpu_features, governor, jetson, machine, nvidia_gpus, version
from mmedge.profiling import energy

_PACKAGES = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "cuda-python",
    "torch", "onnx", "nncf", "torch-pruning", "matplotlib", "cryptography",
)  # fmt: skip
_TOOLCHAIN = ("torch", "onnx", "onnxscript", "nncf", "torch_pruning", "safetensors", "polars", "sklearn")


class Finding(Record):
    """Whether all that a deed needs is there, else what is missing."""

    ready: bool
    missing: list[Missing]


class TargetRecord(Record):
    """What building for a target, and running on it, lack here."""

    build: Finding
    run: Finding


class EnergySources(Record):
    """Where energy is read from; a sentence where it cannot be."""

    cpu: str
    gpu: str


class ExaminedMachine(Machine):
    """The machine with what packages are chosen by."""

    memory_bytes: int | None
    libc: str | None


class DoctorRecord(Record):
    """What a machine can do. ``packages``: {name: version, null where it is not installed}; ``tools``: {name: path or null}."""

    mmedge: str
    machine: ExaminedMachine
    cpu_features: list[str]
    int8: str
    governor: str | None
    gpus: list[Gpu]
    jetson: str | None
    energy: EnergySources
    packages: dict[str, str | None]
    providers: list[str]
    targets: dict[str, TargetRecord]
    toolchain: Finding
    tools: dict[str, str | None]


def examine() -> DoctorRecord:
    """Look at this machine."""
    libc = " ".join(platform.libc_ver()) or None
    features = cpu_features()
    return DoctorRecord(
        mmedge=mmedge.__version__,
        machine=ExaminedMachine(**machine().record(), memory_bytes=_memory_bytes(), libc=libc),
        cpu_features=features,
        int8=_int8_advice(features),
        governor=governor(),
        gpus=nvidia_gpus(),
        jetson=jetson(),
        energy=EnergySources(cpu=_energy(gpu=False), gpu=_energy(gpu=True)),
        packages={name: version(name) for name in _PACKAGES},
        providers=providers(),
        targets={name: _target(name) for name in BACKENDS},
        toolchain=_finding(_toolchain()),
        tools={name: shutil.which(name) for name in ("ssh", "g++", "node", "chromium")},
    )


def _target(name: str) -> TargetRecord:
    backend = find(name)
    return TargetRecord(build=_finding(backend.missing_to_build()), run=_finding(backend.missing_to_run()))


def _finding(missing: list[Missing]) -> Finding:
    return Finding(ready=not missing, missing=missing)


def _toolchain() -> list[Missing]:
    absent = [name for name in _TOOLCHAIN if not find_spec(name)]
    return [Missing(f"the Python packages {', '.join(absent)}", "pip install 'mmedge[toolchain]'")] if absent else []


def _energy(*, gpu: bool) -> str:
    found = energy.meter(gpu=gpu)
    if isinstance(found, str):
        return f"not available: {found}"
    found.close()
    return found.source


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _int8_advice(features: list[str]) -> str:
    if {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(features):
        return "8-bit dot products in hardware: INT8 pays for large models; small ones may be slower with it, so measure it"
    return "no 8-bit dot products in hardware: INT8 may be slower than FP32 and may saturate; measure it"
