"""What this machine can do: processor, GPUs, versions, and for every target what is missing and the command to get it."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

import mmedge
from mmedge.backends import BACKENDS, Missing, find
from mmedge.backends.missing import providers
from mmedge.machine import cpu_features, governor, jetson, machine, nvidia_gpus, version
from mmedge.profiling import energy

_PACKAGES = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "cuda-python",
    "torch", "onnx", "nncf", "torch-pruning", "matplotlib", "cryptography",
)  # fmt: skip
_TOOLCHAIN = ("torch", "onnx", "onnxscript", "nncf", "torch_pruning", "safetensors", "polars", "sklearn")


def examine() -> dict[str, Any]:
    """The whole record. ``targets``: {target: {"build": …, "run": …}}, each {"ready": bool, "missing": […]}."""
    return {
        "mmedge": mmedge.__version__,
        "machine": machine() | {"memory_bytes": _memory_bytes(), "libc": " ".join(platform.libc_ver()) or None},
        "cpu_features": cpu_features(),
        "int8": _int8_advice(cpu_features()),
        "governor": governor(),
        "gpus": [gpu.record() for gpu in nvidia_gpus()],
        "jetson": jetson(),
        "energy": {"cpu": _energy(gpu=False), "gpu": _energy(gpu=True)},
        "packages": {name: version(name) for name in _PACKAGES},
        "providers": providers(),
        "targets": {name: _answer(name) for name in BACKENDS},
        "toolchain": _finding(_toolchain()),
        "tools": {name: shutil.which(name) for name in ("ssh", "g++", "node", "chromium")},
    }


def _answer(name: str) -> dict[str, Any]:
    backend = find(name)
    return {"build": _finding(backend.missing_to_build()), "run": _finding(backend.missing_to_run())}


def _finding(missing: list[Missing]) -> dict[str, Any]:
    return {"ready": not missing, "missing": [asdict(each) for each in missing]}


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
