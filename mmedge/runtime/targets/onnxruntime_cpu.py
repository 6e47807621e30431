"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mmedge.errors import MmedgeError

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def session(graph: Path | bytes, *, threads: int = 1, optimize: bool = True) -> Run:
    """``run({input: array}) -> {output: array}`` of an ONNX graph (a path, or its bytes).

    Spinning threads are off: beside other work they cost more than they give. ``optimize=False`` runs the graph node by
    node as it is written, to verify its numbers apart from fused kernels.
    """
    native = native_session(graph, threads=threads, optimize=optimize)
    names = [output.name for output in native.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, native.run(None, inputs)))

    return run


def native_session(graph: Path | bytes, *, threads: int = 1, optimize: bool = True):
    """The ``onnxruntime.InferenceSession`` behind ``session``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(
            graph if isinstance(graph, bytes) else str(graph), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        where = None if isinstance(graph, bytes) else str(graph)
        raise MmedgeError(f"ONNX Runtime does not take the graph: {str(error).splitlines()[0]}", where=where) from error
