"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import limited, missing, writing
from mmedge.backends.backend import Backend, LayerTime, LayerTimes, Opening
from mmedge.backends.branches import branch_of_nodes
from mmedge.backends.onnxfile import files_of, named, read_nodes
from mmedge.backends.session import Run, Session, TensorInfo
from mmedge.errors import MissingDependency, MmedgeError, first_line
from mmedge.leftovers import scratch

_PROVIDERS = "pip uninstall onnxruntime && pip install onnxruntime-gpu, on a machine with an NVIDIA driver"
# "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : ", and a file of its source with the signature of the function.
_PLACES = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : |(?:Exception during initialization: )?/\S*\.(?:cc|h):\d+ [^()]*\([^()]*\)(?: const)? "
)
_DTYPES: dict[str, np.dtype] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    **{f"tensor({sign}int{bits})": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "tensor(bool)": np.dtype(bool),
}


def session(
    graph: Path | bytes,
    *,
    threads: int = 1,
    optimize: bool = True,
    providers: Sequence[Any] | None = None,
    timeout_s: float | None = None,
) -> Session:
    """Open an ONNX graph: a path, of one that writes its two parts and the loop around them; or bytes, as they are.

    Spinning threads are off: beside other work they cost more than they give. ``optimize=False`` runs the graph node by
    node as it is written, to verify its numbers apart from fused kernels. ``timeout_s``: what opening it, and each run,
    may take; MmedgeError is raised then.
    """
    how = writing.described(graph) if isinstance(graph, Path) else None
    if isinstance(graph, Path) and how is not None:
        opener = partial(session, threads=threads, optimize=optimize, providers=providers, timeout_s=timeout_s)
        return writing.opened(graph, how, opener)
    if timeout_s is not None:
        limited.check_opens(graph, threads, providers, timeout_s)
    native = native_session(graph, threads=threads, optimize=optimize, providers=providers)
    # Named here once: asked for none, ONNX Runtime makes this list anew in every call.
    names = [output.name for output in native.get_outputs()]
    # Beside a graph of 30 us, what ONNX Runtime checks in Python takes 3 % of each call; the compiled session under it does
    # without, where this version has one.
    compiled = getattr(native, "_sess", native)
    run, checked = (_named(each.run, names, timeout_s) for each in (native, compiled))
    return Session(run, tensor_infos(native), native, checked=checked)


def _named(execute: Callable[..., Sequence[np.ndarray]], names: list[str], timeout_s: float | None) -> Run:
    """``execute`` with its outputs by name."""

    def run_within(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, limited.run_within(execute, names, inputs, timeout_s or 0)))

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, execute(names, inputs, None)))

    def run_of_one(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {only: execute(names, inputs, None)[0]}

    if timeout_s is not None:
        return run_within
    only = names[0]
    return run_of_one if len(names) == 1 else run


def message_of(error: BaseException) -> str:
    """What ONNX Runtime says of an error, in one line, without its own code's places and numbers."""
    return _PLACES.sub("", first_line(error)) or first_line(error)


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
    options = _options(threads)
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    try:
        native = onnxruntime.InferenceSession(
            graph if isinstance(graph, bytes) else str(graph), options, providers=wanted
        )
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        reason, where = message_of(error), None if isinstance(graph, bytes) else str(graph)
        if "from external tensors" in reason.lower():  # it reads shapes before it opens another file
            raise MmedgeError(
                "the graph keeps small tensors, such as shapes, in another file, and ONNX Runtime takes them in the graph alone",
                where=where,
                todo="write it in one file, or with onnx's usual size_threshold of 1024",
            ) from error
        if "external data" in reason.lower() or "external initializer" in reason.lower():
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


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong comes as an exception, and is told in one sentence
    return options


def _open(file: Path | bytes, opening: Opening) -> Session:
    return session(file, threads=opening.threads, providers=opening.providers, timeout_s=opening.timeout_s)


def _beside(graph: Path, folder: Path) -> Path:
    """Where the files of weights that a graph names lie: with it, or copied to ``folder`` where they are links.

    ONNX Runtime reads nothing that a link leads to outside the folder that it is told.
    """
    files = [file for file in files_of(graph) if file != graph]
    if not any(file.is_symlink() for file in files):
        return graph.parent.absolute()
    for file in files:
        copy = folder / file.relative_to(graph.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return folder.absolute()


def layer_times(
    graph: Path,
    inputs: Mapping[str, np.ndarray],
    threads: int,
    runs: int,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
) -> LayerTimes:
    """ONNX Runtime's own profile: the nodes of the optimised graph."""
    import onnxruntime

    warmup = 5
    with scratch() as folder:
        options = _options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        # The nodes that are timed are those of the graph after fusion, which only the runtime can write.
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        content = named(graph)
        if content is not None:  # read from memory: where weights in other files lie must then be said
            beside = _beside(graph, folder)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(beside))
        native = onnxruntime.InferenceSession(content or str(graph), options, providers=list(providers))
        for _ in range(warmup + runs):
            native.run(None, dict(inputs))
        events = json.loads(Path(native.end_profiling()).read_text())
        nodes = read_nodes(folder / "optimized.onnx")
    means, basis = node_times(events, runs=runs, warmup=warmup, gpu=providers[0] != "CPUExecutionProvider")
    branches = branch_of_nodes(nodes, list(inputs))
    return LayerTimes(
        [
            LayerTime(node.name, node.kind, branches[node.name], means[node.name])
            for node in nodes
            if node.name in means
        ],
        basis,
    )


def node_times(
    events: Sequence[Mapping[str, Any]], *, runs: int, warmup: int, gpu: bool
) -> tuple[dict[str, float], str]:
    """{node: microseconds a run} of a profile's events, and what they are.

    On a GPU a node's own event is its launch on the host; the kernels behind it, where ONNX Runtime was built to ask
    CUPTI, are events of their own that name it as their parent.
    """
    spans: dict[str, list[float]] = {}
    kernels: dict[str, list[float]] = {}
    for event in events:
        name, parent = event.get("name", ""), event.get("args", {}).get("parent_name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            spans.setdefault(name.removesuffix("_kernel_time"), []).append(event["dur"])
        elif event.get("cat") == "Kernel" and parent.endswith("_kernel_time"):
            kernels.setdefault(parent.removesuffix("_kernel_time"), []).append(event["dur"])
    if kernels:  # a node may launch several a run
        return {name: sum(taken) / (runs + warmup) for name, taken in kernels.items()}, "GPU kernels, by CUPTI"
    means = {name: typical(taken[warmup:]) for name, taken in spans.items() if len(taken) > warmup}
    if gpu:
        return means, "launches on the host: this ONNX Runtime does not tell of the GPU's kernels"
    return means, "ONNX Runtime's profile"


def typical(times: Sequence[float]) -> float:
    """The mean of the lower nine tenths: once the process is put aside in the middle of a layer, and it would seem the
    costliest; the median of whole microseconds tells too little."""
    return float(np.mean(np.sort(times)[: max(1, len(times) * 9 // 10)]))


BACKEND = Backend(
    name="onnxruntime-cpu",
    open=_open,
    layer_times=layer_times,
    missing_to_run=lambda: missing.provider("CPUExecutionProvider", "pip install onnxruntime"),
    takes_providers=True,
    takes_timeout=True,
)
