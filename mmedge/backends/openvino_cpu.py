"""OpenVINO on the CPU: building its IR, running it, and its own counters."""

from __future__ import annotations

import queue
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import missing
from mmedge.backends.backend import Backend, Job, LayerTime, LayerTimes
from mmedge.backends.branches import branch_of_nodes
from mmedge.backends.engine import Engine
from mmedge.backends.onnxfile import Node, read_nodes
from mmedge.backends.session import Session, TensorInfo
from mmedge.errors import MissingDependency, MmedgeError


def module() -> Any:
    """The package; raises MissingDependency with the command that installs it."""
    try:
        import openvino
    except ImportError as error:
        raise MissingDependency(
            "the target openvino-cpu was asked for and its package is not installed",
            todo="pip install 'mmedge[openvino]'",
        ) from error
    return openvino


def build(job: Job) -> Engine:
    """Write the IR of an ONNX graph: an .xml and its weights beside it (.bin), as they are, not compressed."""
    openvino = module()
    try:
        model = openvino.convert_model(str(job.graph))
    except Exception as error:  # OpenVINO's exceptions share no base class but RuntimeError and Exception
        raise MmedgeError(
            f"OpenVINO does not take the graph: {_reason(error)}", where=str(job.graph), todo="leave openvino-cpu out"
        ) from error
    _number(model, job.graph)
    file = f"{job.stem}.xml"
    openvino.save_model(model, str(job.graph.with_name(file)), compress_to_fp16=False)
    return Engine(file=file, files=[file, f"{job.stem}.bin"], version=openvino.__version__.split("-")[0])


def _number(model: Any, graph: Path) -> None:
    """Name anew what OpenVINO named by a counter of its process, in place: the same graph is then the same file."""
    given = {name for node in read_nodes(graph) for name in (node.name, *node.outputs)}
    for number, node in enumerate(model.get_ordered_ops()):
        name, kind = node.get_friendly_name(), node.get_type_name()
        if name not in given and kind not in ("Parameter", "Result") and re.fullmatch(r"\w+_\d+", name):
            node.set_friendly_name(f"{kind}_{number}")


def session(engine: Path | bytes, *, threads: int = 1) -> Session:
    """Open an IR or an ONNX graph. One inference request a caller: they are kept and lent, so that threads do not wait."""
    compiled = _compiled(engine, threads, False)
    infos = {
        _name(port): TensorInfo(
            np.dtype(port.get_element_type().to_dtype()),
            tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()),
        )
        for port in compiled.inputs
    }
    for name, info in infos.items():
        if info.dtype.kind not in "fiub":  # a text handed over as numbers would end the process
            raise MmedgeError(
                f"the graph's input {name} is of {info.dtype}, which mmedge does not feed",
                todo="export it with inputs of numbers or booleans",
            )
    outputs = [(_name(port), index) for index, port in enumerate(compiled.outputs)]
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            request = requests.get_nowait()
        except queue.Empty:
            request = compiled.create_infer_request()
        try:
            request.infer(inputs, share_inputs=True)
            # Copied: the request's memory is written again by the next caller.
            return {name: request.get_output_tensor(index).data.copy() for name, index in outputs}
        finally:
            requests.put(request)

    return Session(run, infos, compiled)


def layer_times(engine: Path, inputs: Mapping[str, np.ndarray], threads: int, runs: int) -> LayerTimes:
    """By OpenVINO's own counters: the nodes of the compiled graph that have one."""
    compiled = _compiled(engine, threads, True)
    request = compiled.create_infer_request()
    spans: dict[str, list[float]] = {}
    for _ in range(runs + 5):
        request.infer(dict(inputs))
        for row in request.profiling_info:
            spans.setdefault(row.node_name, []).append(row.real_time.total_seconds() * 1e6)
    means = {name: float(np.mean(values[5:])) for name, values in spans.items()}
    nodes = [_node(node) for node in compiled.get_runtime_model().get_ordered_ops()]
    branches = branch_of_nodes(nodes, list(inputs))
    return LayerTimes(
        [
            LayerTime(each.name, each.kind, branches[each.name], mean)
            for each in nodes
            if (mean := means.get(each.name))
        ],
        "OpenVINO's counters",
    )


def _node(node: Any) -> Node:
    """A node of the compiled graph, its values named after the nodes that give them."""
    about = node.get_rt_info()
    return Node(
        node.get_friendly_name(),
        str(about["layerType"].astype(str)) if "layerType" in about else node.get_type_name(),
        tuple(value.get_node().get_friendly_name() for value in node.input_values()),
        (node.get_friendly_name(),),
    )


def _compiled(engine: Path | bytes, threads: int, counters: bool) -> Any:
    openvino = module()
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": counters,
        # Its thread is not tied to one core: where another process holds that one, an inference of 0.1 ms takes 8.
        "ENABLE_CPU_PINNING": False,
        # FP32 stays FP32: on a processor with BF16 units OpenVINO would take those, and the figures another meaning.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    try:
        model = core.read_model(engine) if isinstance(engine, bytes) else str(engine)
        return core.compile_model(model, "CPU", config)
    except Exception as error:
        name = "" if isinstance(engine, bytes) else str(engine)
        raise MmedgeError(
            f"OpenVINO does not take the engine: {_reason(error)}",
            where=name or None,
            todo="look whether it is a whole ONNX file, its external data beside it"
            if not name or name.endswith(".onnx")
            else "mmedge export --rebuild BUNDLE builds it again for this OpenVINO",
        ) from error


def _name(port: Any) -> str:
    """A tensor's name. Where OpenVINO drops a cast, its tensor has two: the cast's own, which FP16 conversion made up, goes."""
    names = sorted(port.get_names())
    return next((name for name in names if not name.startswith(("graph_input_cast", "graph_output_cast"))), names[0])


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _missing() -> list[missing.Missing]:
    return missing.package("openvino", "pip install 'mmedge[openvino]'")


BACKEND = Backend(
    name="openvino-cpu",
    open=lambda file, opening: session(file, threads=opening.threads),
    layer_times=layer_times,
    missing_to_run=_missing,
    missing_to_build=_missing,
    build=build,
)
