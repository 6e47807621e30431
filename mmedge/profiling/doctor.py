"""What this machine can do: processor, GPUs, versions, and for every target what is missing and the command to get it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmedge
from mmedge.machine import cpu_features, governor, machine, nvidia_gpus, version
from mmedge.profiling import energy

# What a finding about a target is made of: (what is missing, the command that gets it).
Missing = list[tuple[str, str]]

_PACKAGES = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "cuda-python",
    "torch", "onnx", "nncf", "torch-pruning", "matplotlib", "cryptography",
)  # fmt: skip
_TOOLCHAIN = ("torch", "onnx", "onnxscript", "nncf", "torch_pruning", "safetensors", "polars", "sklearn")


def examine() -> dict[str, Any]:
    """The whole record. ``targets``: {target: {"build": …, "run": …}}, each {"ready": bool, "missing": […]}."""
    gpus = nvidia_gpus()
    return {
        "mmedge": mmedge.__version__,
        "machine": machine() | {"memory_bytes": _memory_bytes(), "libc": " ".join(platform.libc_ver()) or None},
        "cpu_features": cpu_features(),
        "int8": _int8_advice(cpu_features()),
        "governor": governor(),
        "gpus": gpus,
        "jetson": _jetson(),
        "energy": {"cpu": _energy(gpu=False), "gpu": _energy(gpu=True)},
        "packages": {name: version(name) for name in _PACKAGES},
        "providers": _providers(),
        "targets": {target: _answer(target, gpus) for target in _TARGETS},
        "toolchain": _finding(_toolchain()),
        "tools": {name: shutil.which(name) for name in ("ssh", "g++", "node", "chromium")},
    }


def _answer(target: str, gpus: list[dict[str, Any]]) -> dict[str, Any]:
    build, run = _TARGETS[target]
    return {"build": _finding(build()), "run": _finding(run(gpus))}


def _jetson() -> str | None:
    """The board's release line, where this is a Jetson."""
    try:
        return Path("/etc/nv_tegra_release").read_text().partition("\n")[0].strip("# ")
    except OSError:
        return None


def _finding(missing: Missing) -> dict[str, Any]:
    return {"ready": not missing, "missing": [{"what": what, "get": get} for what, get in missing]}


def _package(module: str, get: str) -> Missing:
    return [] if importlib.util.find_spec(module) else [(f"the Python package {module}", get)]


def _provider(name: str, get: str) -> Missing:
    return [] if name in _providers() else [(f"ONNX Runtime's {name}", get)]


def _gpu(gpus: list[dict[str, Any]]) -> Missing:
    if gpus:
        return []
    if _jetson():
        return [("NVIDIA's driver library", "sudo apt-get install nvidia-jetpack")]
    return [("an NVIDIA GPU with its driver", "run it on such a machine: --target ssh://user@host/TARGET")]


def _nothing(*_: Any) -> Missing:
    return []


def _toolchain() -> Missing:
    absent = [name for name in _TOOLCHAIN if not importlib.util.find_spec(name)]
    return [(f"the Python packages {', '.join(absent)}", "pip install 'mmedge[toolchain]'")] if absent else []


def _tensorrt(target: str, module: str) -> tuple[Callable[[], Missing], Callable[[list[dict[str, Any]]], Missing]]:
    get = f"pip install 'mmedge[{target}]'"
    if target == "tensorrt" and _jetson():
        get = "sudo apt-get install nvidia-jetpack python3-libnvinfer"
    return (
        lambda: _package(module, get),
        lambda gpus: [*_package(module, get), *_package("cuda", f"pip install 'mmedge[{target}]'"), *_gpu(gpus)],
    )


def _openvino(*_: Any) -> Missing:
    return _package("openvino", "pip install 'mmedge[openvino]'")


_TARGETS: dict[str, tuple[Callable[[], Missing], Callable[[list[dict[str, Any]]], Missing]]] = {
    "onnxruntime-cpu": (_nothing, lambda gpus: _provider("CPUExecutionProvider", "pip install onnxruntime")),
    "openvino-cpu": (_openvino, _openvino),
    "onnxruntime-cuda": (
        _nothing,
        lambda gpus: [
            *_provider("CUDAExecutionProvider", "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"),
            *_gpu(gpus),
        ],
    ),
    "tensorrt": _tensorrt("tensorrt", "tensorrt"),
    "tensorrt-rtx": _tensorrt("tensorrt-rtx", "tensorrt_rtx"),
}


def ready_to_run(target: str) -> bool:
    """Whether nothing is missing for running ``target`` here."""
    return not _TARGETS[target][1](nvidia_gpus())


def _providers() -> list[str]:
    try:
        return list(importlib.import_module("onnxruntime").get_available_providers())
    except ImportError:
        return []


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
