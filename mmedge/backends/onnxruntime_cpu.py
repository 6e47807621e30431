"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends.session import Run, Session, TensorInfo
from mmedge.errors import MissingDependency, MmedgeError, first_line

_PROVIDERS = "pip uninstall onnxruntime && pip install onnxruntime-gpu, on a machine with an NVIDIA driver"
_DTYPES: dict[str, np.dtype] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    **{f"tensor({sign}int{bits})": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "tensor(bool)": np.dtype(bool),
}


def session(
    graph: Path | bytes, *, threads: int = 1, optimize: bool = True, providers: Sequence[Any] | None = None
) -> Session:
    """Open an ONNX graph (a path, or its bytes).

    Spinning threads are off: beside other work they cost more than they give. ``optimize=False`` runs the graph node by
    node as it is written, to verify its numbers apart from fused kernels.
    """
    native = native_session(graph, threads=threads, optimize=optimize, providers=providers)
    # Named here once: asked for none, ONNX Runtime makes this list anew in every call.
    names = [output.name for output in native.get_outputs()]
    # Beside a graph of 30 us, what ONNX Runtime checks in Python takes 3 % of each call; the compiled session under it does
    # without, where this version has one.
    compiled = getattr(native, "_sess", native)
    return Session(_named(native.run, names), tensor_infos(native), native, checked=_named(compiled.run, names))


def _named(execute: Callable[..., Sequence[np.ndarray]], names: list[str]) -> Run:
    """``execute`` with its outputs by name."""

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, execute(names, inputs, None)))

    def run_of_one(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {only: execute(names, inputs, None)[0]}

    only = names[0]
    return run_of_one if len(names) == 1 else run


def tensor_infos(native: Any) -> dict[str, TensorInfo]:
    """What an ``onnxruntime.InferenceSession`` takes."""
    infos = {}
    for taken in native.get_inputs():
        if taken.type not in _DTYPES:
            raise MmedgeError(
                f"the graph's input {taken.name} is of {taken.type}, which mmedge does not feed",
                todo="export it with inputs of numbers or booleans",
            )
        shape = tuple(size if isinstance(size, int) and size > 0 else None for size in taken.shape)
        infos[taken.name] = TensorInfo(_DTYPES[taken.type], shape)
    return infos


def native_session(
    graph: Path | bytes, *, threads: int = 1, optimize: bool = True, providers: Sequence[Any] | None = None
):
    """The ``onnxruntime.InferenceSession`` behind ``session``.

    Raises MissingDependency where the first of ``providers`` is not there or does not start: ONNX Runtime would take
    the processor instead, without an error.
    """
    import onnxruntime

    wanted = list(providers or ["CPUExecutionProvider"])
    first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    if first not in onnxruntime.get_available_providers():
        raise MissingDependency(f"this ONNX Runtime has no {first}", todo=_PROVIDERS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong comes as an exception, and is told in one sentence
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    try:
        native = onnxruntime.InferenceSession(
            graph if isinstance(graph, bytes) else str(graph), options, providers=wanted
        )
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        reason, where = first_line(error), None if isinstance(graph, bytes) else str(graph)
        if "external" in reason.lower():
            raise MmedgeError(
                "the graph keeps its weights in another file, which is not beside it",
                where=where,
                todo="copy the file of external data beside the graph, under the name that it was written with",
            ) from error
        raise MmedgeError(
            f"ONNX Runtime does not take the graph: {reason}",
            where=where,
            todo="look whether it is a whole ONNX file, of an opset that this ONNX Runtime knows",
        ) from error
    if first not in native.get_providers():
        where = None if isinstance(graph, bytes) else str(graph)
        raise MissingDependency(f"{first} does not start on this machine", where=where, todo=_PROVIDERS)
    return native
