"""TensorRT's Python packages: importing one, and calling it so that nothing in this process waits for it for ever."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmedge.errors import MissingDependency

PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def module_of(name: str) -> Any:
    """The target's Python module; raises MissingDependency with the command that installs it."""
    try:
        return importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise MissingDependency(
            f"the target {name} was asked for and its package is not installed",
            todo=f"pip install 'mmedge[{name}]'",
        ) from error


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage is collected meanwhile.

    TensorRT calls its logger, which is Python, with a lock held that it takes again to free a builder: were one among the
    garbage that is collected there, the process would wait for itself for ever.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def collector(trt: Any) -> Any:
    """A logger that keeps the last error instead of printing it."""

    class Collector(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.worst = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.worst = message

    return Collector()
