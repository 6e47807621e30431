"""What a machine may lack for a backend, and the command that gets it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec

from mmedge.machine import jetson, nvidia_gpus


@dataclass(frozen=True)
class Missing:
    """``what`` is not there, and the command or deed that ``get``s it."""

    what: str
    get: str


def package(module: str, get: str) -> list[Missing]:
    """The Python package of this module, where it is not installed."""
    return [] if find_spec(module) else [Missing(f"the Python package {module}", get)]


def provider(name: str, get: str) -> list[Missing]:
    """One of ONNX Runtime's execution providers."""
    return [] if name in providers() else [Missing(f"ONNX Runtime's {name}", get)]


def gpu() -> list[Missing]:
    """An NVIDIA GPU with its driver."""
    if nvidia_gpus():
        return []
    if jetson():
        return [Missing("NVIDIA's driver library", "sudo apt-get install nvidia-jetpack")]
    return [Missing("an NVIDIA GPU with its driver", "run it on such a machine: --target ssh://user@host/TARGET")]


def providers() -> list[str]:
    """ONNX Runtime's execution providers here."""
    try:
        return list(importlib.import_module("onnxruntime").get_available_providers())
    except ImportError:
        return []
