"""Where engines run. A new backend is a file that gives a ``BACKEND``, and one row of this table.

A row's file is imported when it is first asked for; the library behind it, when a function of it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mmedge.backends import writing
from mmedge.backends.backend import Backend, Job, LayerTimes, Opening, Options
from mmedge.backends.engine import Engine
from mmedge.backends.missing import Missing
from mmedge.backends.session import Session
from mmedge.errors import MissingDependency, MmedgeError, UsageError
from mmedge.machine import cores

__all__ = [
    "BACKENDS",
    "GRAPH_BACKEND",
    "Backend",
    "LayerTimes",
    "Missing",
    "Opening",
    "Options",
    "Session",
    "built",
    "can_run",
    "find",
    "opened",
    "require_builder",
]

BACKENDS: dict[str, str] = {
    "onnxruntime-cpu": "mmedge.backends.onnxruntime_cpu",
    "openvino-cpu": "mmedge.backends.openvino_cpu",
    "onnxruntime-cuda": "mmedge.backends.onnxruntime_cuda",
    "tensorrt": "mmedge.backends.tensorrt",
    "tensorrt-rtx": "mmedge.backends.tensorrt_rtx",
}

# Every artifact's own model.onnx runs on it: what other engines are compared with, and what a bundle always holds.
GRAPH_BACKEND = "onnxruntime-cpu"

# Beyond it nothing is faster, and ONNX Runtime would start them all.
_MOST_THREADS = 512


def find(name: str) -> Backend:
    """The backend of this name. Raises MissingDependency where this version has no row for it."""
    if name not in BACKENDS:
        raise MissingDependency(
            f"this version of mmedge cannot run {name}", todo="name another target, or upgrade mmedge"
        )
    found: Backend = import_module(BACKENDS[name]).BACKEND
    return found


def opened(
    file: Path,
    backend: str = GRAPH_BACKEND,
    *,
    threads: int = 1,
    providers: Sequence[Any] | None = None,
    host_code: bool = False,
    timeout_s: float | None = None,
) -> Session:
    """Open a model's file on a backend; see ``Opening`` for the rest.

    Raises MissingDependency where the backend cannot run here, MmedgeError for a file that it does not take.
    """
    if not file.is_file():
        raise MmedgeError("the model does not exist", where=str(file), todo="copy the bundle again")
    if not 1 <= threads <= _MOST_THREADS:
        raise UsageError(
            f"threads must be 1 to {_MOST_THREADS}, not {threads}",
            todo=f"this machine has {cores()} for this process",
        )
    row = find(backend)
    if providers and not row.takes_providers:
        raise UsageError(f"providers are ONNX Runtime's, and {backend} has none", todo="leave them out")
    if timeout_s is not None and not row.takes_timeout:
        takes = f"what {GRAPH_BACKEND} runs can be stopped, and what {backend} runs cannot"
        raise UsageError(takes, todo="leave out timeout_s, or run it in a process that you can end")
    opening = Opening(threads, providers, host_code, timeout_s)
    how = writing.described(file)
    if how is not None:
        return writing.opened(file, how, lambda part: row.open(part, opening))
    return row.open(file, opening)


def built(row: Backend, job: Job) -> Engine:
    """Build the engine of a graph, or those of the parts of one that writes. The backend is one that builds."""
    from mmedge.backends import onnxruntime_cpu

    assert row.build is not None, "who asks has looked"
    how = writing.described(job.graph)
    return row.build(job) if how is None else writing.built(job, how, row.build, onnxruntime_cpu.session)


def require_builder(backend: str) -> None:
    """Raise MissingDependency, with the command that helps, where engines for ``backend`` cannot be built here."""
    for missing in find(backend).missing_to_build():
        raise MissingDependency(
            f"the target {backend} was asked for and {missing.what} is not installed", todo=missing.get
        )


def can_run(backend: str) -> bool:
    """Whether engines for ``backend`` can be run, and so timed, on this machine."""
    return not find(backend).missing_to_run()
