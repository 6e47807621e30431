"""Limits on the time of a graph that is not trusted: its opening is tried in a process that can be ended, its runs are stopped.

What ONNX Runtime computes while it opens a graph, constants above all, nothing but the end of its process stops.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError

_TODO = "do not run it, or give it more time: timeout_s"
_OPENS = """
import json, sys
from mmedge.backends.onnxruntime_cpu import native_session
import onnxruntime
graph, threads, providers = json.loads(sys.argv[1])
print(flush=True)
try:
    native_session(graph if graph is not None else sys.stdin.buffer.read(), threads=threads, providers=providers)
except Exception:
    pass  # the process that asked opens it too, and tells
"""


def check_opens(graph: Path | bytes, threads: int, providers: Sequence[Any] | None, timeout_s: float) -> None:
    """Raise MmedgeError where a graph is not opened within ``timeout_s``, or ends the process that opens it."""
    where = None if isinstance(graph, bytes) else str(graph)
    work = json.dumps([where, threads, providers])
    with subprocess.Popen(
        [sys.executable, "-c", _OPENS, work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        try:
            child.stdout.readline()  # its imports are not the graph's time
            child.communicate(graph if isinstance(graph, bytes) else b"", timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise MmedgeError(f"the graph does not open within {timeout_s:g} s", where=where, todo=_TODO) from None
        finally:
            child.kill()
        if child.returncode < 0:
            raise MmedgeError(
                f"the graph ends the process that opens it (signal {-child.returncode})",
                where=where,
                todo="do not run it",
            )


def run_within(
    execute: Callable[..., Sequence[np.ndarray]], names: list[str], inputs: Mapping[str, np.ndarray], timeout_s: float
) -> Sequence[np.ndarray]:
    """``execute(names, inputs, options)`` of ONNX Runtime, stopped between two of its nodes after ``timeout_s``."""
    import onnxruntime

    options, late = onnxruntime.RunOptions(), threading.Event()
    options.log_severity_level = 4

    def stop() -> None:
        late.set()
        options.terminate = True

    timer = threading.Timer(timeout_s, stop)
    timer.daemon = True
    timer.start()
    try:
        return execute(names, inputs, options)
    except Exception as error:
        if late.is_set():
            raise MmedgeError(f"the graph gives nothing within {timeout_s:g} s", todo=_TODO) from error
        raise
    finally:
        timer.cancel()
