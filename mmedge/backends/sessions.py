"""Opening a model file on a target: the one table of what can be run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmedge.backends.session import Session
from mmedge.errors import MissingDependency, MmedgeError, UsageError
from mmedge.machine import cores

# Beyond it nothing is faster, and ONNX Runtime would start them all.
_MOST_THREADS = 512


def opened(
    file: Path,
    target: str = "onnxruntime-cpu",
    *,
    threads: int = 1,
    providers: Sequence[Any] | None = None,
    host_code: bool = False,
) -> Session:
    """Open ``file`` on ``target``. ``providers``: ONNX Runtime's own, with their options, instead of the target's.

    ``host_code``: whether a TensorRT engine may run code that it brings along: one that was built here, or is signed.

    Raises MissingDependency where the target cannot run here, MmedgeError for a file that it does not take.
    """
    if not file.is_file():
        raise MmedgeError("the model does not exist", where=str(file), todo="copy the bundle again")
    if not 1 <= threads <= _MOST_THREADS:
        raise UsageError(
            f"threads must be 1 to {_MOST_THREADS}, not {threads}", todo=f"this machine has {cores()} for this process"
        )
    if providers and not target.startswith("onnxruntime-"):
        raise UsageError(f"providers are ONNX Runtime's, and {target} has none", todo="leave them out")
    match target:
        case "onnxruntime-cpu":
            from mmedge.backends import onnxruntime_cpu

            return onnxruntime_cpu.session(file, threads=threads, providers=providers)
        case "onnxruntime-cuda":
            from mmedge.backends import onnxruntime_cuda

            return onnxruntime_cuda.session(file, threads=threads, providers=providers)
        case "openvino-cpu":
            from mmedge.backends import openvino_cpu

            return openvino_cpu.session(file, threads=threads)
        case "tensorrt" | "tensorrt-rtx":
            from mmedge.backends import tensorrt_session

            return tensorrt_session.session(file, target=target, host_code=host_code)
    raise MissingDependency(
        f"this version of mmedge cannot run {target}", todo="name another target, or upgrade mmedge"
    )


def require_builder(target: str) -> None:
    """Raise MissingDependency, with the command that helps, where engines for ``target`` cannot be built here."""
    match target:
        case "openvino-cpu":
            from mmedge.backends import openvino_cpu

            openvino_cpu.module()
        case "tensorrt" | "tensorrt-rtx":
            from mmedge.backends import tensorrt

            tensorrt.module_of(target)


def can_run(target: str) -> bool:
    """Whether engines for ``target`` can be run, and so timed, on this machine."""
    match target:
        case "onnxruntime-cpu" | "openvino-cpu":
            return True
    from mmedge.profiling.doctor import ready_to_run

    return ready_to_run(target)
