"""Running TensorRT and TensorRT for RTX engines through cuda-python: pinned buffers, one stream, CUDA graphs.

Small, so that it can be checked by reading; it runs only where an NVIDIA GPU is.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends.backend import LayerTime, LayerTimes
from mmedge.backends.branches import branch_of_layer, branch_of_nodes
from mmedge.backends.onnxfile import read_nodes
from mmedge.backends.session import Session, TensorInfo
from mmedge.backends.tensorrt_package import collector, module_of, undisturbed
from mmedge.errors import MissingDependency, MmedgeError


@dataclass(frozen=True)
class _Buffer:
    """A tensor's memory, as large as its profile allows: pinned on the host, and on the device."""

    name: str
    taken: bool
    dtype: np.dtype
    host: np.ndarray  # uint8 [bytes], pinned
    device: int


@undisturbed()
def session(engine: Path, name: str, *, host_code: bool = False) -> Session:
    """Deserialize an engine and allocate its buffers. Raises MissingDependency where there is no GPU to run it on.

    ``host_code``: whether the engine may bring code for this host along, as a version-compatible one does.
    """
    return _opened(*_loaded(engine, name, host_code))


@undisturbed()
def layer_times(engine: Path, inputs: Mapping[str, np.ndarray], name: str, runs: int) -> LayerTimes:
    """By TensorRT's own profiler; nothing is recorded meanwhile.

    TensorRT fuses: a layer is of the branch of the ONNX nodes that its name and metadata speak of, in the graph that
    the engine was built from, which lies beside it.
    """
    graph = engine.with_name("model.onnx")
    branches = branch_of_nodes(read_nodes(graph), list(inputs)) if graph.is_file() else {}
    times = _layer_times(*_loaded(engine, name), inputs, runs)
    return LayerTimes(
        [
            LayerTime(layer, "TensorRT", branch_of_layer(f"{layer} {metadata}", branches), mean)
            for layer, metadata, mean in times
        ],
        "TensorRT's layer profiler",
    )


def _layer_times(
    trt: Any, cuda: Any, runtime: Any, engine: Any, inputs: Mapping[str, np.ndarray], runs: int, warmup: int = 5
) -> list[tuple[str, str, float]]:
    """(layer, what the engine knows of its ONNX nodes, mean microseconds) in order."""
    spans: dict[str, list[float]] = {}

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            spans.setdefault(layer_name, []).append(ms)

    opened = _opened(trt, cuda, runtime, engine, Profiler())
    for index in range(warmup + runs):
        if index == warmup:
            spans.clear()
        opened.run(inputs)
    # Only engines that were built with detailed verbosity tell more than names.
    information = json.loads(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
    nodes = {
        row["Name"]: str(row.get("Metadata", "")) for row in information.get("Layers", ()) if isinstance(row, dict)
    }
    return [(name, nodes.get(name, ""), sum(taken) / runs * 1000) for name, taken in spans.items()]


def _loaded(engine: Path, name: str, host_code: bool = False) -> tuple[Any, Any, Any, Any]:
    """(TensorRT's module, CUDA's, runtime, engine); MissingDependency where there is no GPU, or the engine does not fit it."""
    trt, cuda = module_of(name), _cuda(name)
    logger = collector(trt)
    todo = "run it on a GPU of the kind it was built for, or load the bundle with target='onnxruntime-cpu'"
    code, count = cuda.cudaGetDeviceCount()
    if int(code) or not count:
        raise MissingDependency(
            f"the {name} engine cannot be loaded: CUDA finds no GPU here", where=str(engine), todo=todo
        )
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = host_code
    loaded = runtime.deserialize_cuda_engine(engine.read_bytes())
    if loaded is None:
        raise MissingDependency(f"the {name} engine does not load here: {logger.worst}", where=str(engine), todo=todo)
    return trt, cuda, runtime, loaded


def _opened(trt: Any, cuda: Any, runtime: Any, engine: Any, profiler: Any = None) -> Session:
    """A session over a loaded engine. ``profiler``: an IProfiler that is told of every layer; no run is then recorded."""
    context, records = _context(trt, engine, profiler)
    # Of its own: in one that waits for the default stream, a recording fails as soon as other code uses that.
    stream = _ok(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))
    infos, largest = _inputs(trt, engine)
    for name, (_, most) in largest.items():
        context.set_input_shape(name, most)
    buffers = _buffers(trt, cuda, engine, context, frozenset(largest))
    events = [_ok(cuda.cudaEventCreate()) for _ in range(4)]
    shapes: tuple[tuple[int, ...], ...] = ()  # of the last run
    recording: list[Any] = []  # of a run at these shapes, where there is one
    lock, last = threading.Lock(), {}

    def execute(key: tuple[tuple[int, ...], ...]) -> None:
        """Compute at the shapes that are set: from the second run at them on, by a CUDA graph."""
        nonlocal shapes, records
        if key != shapes:  # a recording holds only as long as the context's shapes stay what they were
            while recording:
                _ok(cuda.cudaGraphExecDestroy(recording.pop()))
        elif records and not recording:  # ran once: what TensorRT allocates on the first run is there
            recording.extend(_recorded(cuda, context, stream))
            records = bool(recording)
        if recording:
            _ok(cuda.cudaGraphLaunch(recording[0], stream))
        else:
            _enqueue(context, stream)
        shapes = key

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        key = tuple(inputs[name].shape for name in largest)
        _check_shapes(largest, key)
        with lock:  # a context runs one inference at a time
            for name, shape in zip(largest, key):
                context.set_input_shape(name, shape)
            _ok(cuda.cudaEventRecord(events[0], stream))
            for buffer in buffers:
                if buffer.taken:
                    array = np.ascontiguousarray(inputs[buffer.name], buffer.dtype)
                    buffer.host[: array.nbytes] = array.reshape(-1).view(np.uint8)
                    _copy(cuda, buffer, array.nbytes, stream, to_device=True)
            _ok(cuda.cudaEventRecord(events[1], stream))
            execute(key)
            _ok(cuda.cudaEventRecord(events[2], stream))
            outputs = {}
            for buffer in buffers:
                if not buffer.taken:
                    shape = tuple(context.get_tensor_shape(buffer.name))
                    size = int(np.prod(shape)) * buffer.dtype.itemsize
                    _copy(cuda, buffer, size, stream, to_device=False)
                    outputs[buffer.name] = (buffer.host[:size], buffer.dtype, shape)
            _ok(cuda.cudaEventRecord(events[3], stream))
            _ok(cuda.cudaStreamSynchronize(stream))
            for number, part in enumerate(("host_to_device", "compute", "device_to_host")):
                last[part] = float(_ok(cuda.cudaEventElapsedTime(events[number], events[number + 1])))
            return {name: host.view(dtype).reshape(shape).copy() for name, (host, dtype, shape) in outputs.items()}

    weakref.finalize(run, _release, cuda, stream, events, buffers, recording)
    # The runtime is kept with the engine: TensorRT wants it to live longer.
    return Session(run, infos, (runtime, engine, context), lambda: dict(last))


def _inputs(trt: Any, engine: Any) -> tuple[dict[str, TensorInfo], dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
    """What the engine takes, and {input: its least shape, and its largest}."""
    infos, limits = {}, {}
    for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            shape = tuple(size if size >= 0 else None for size in engine.get_tensor_shape(name))
            infos[name] = TensorInfo(np.dtype(trt.nptype(engine.get_tensor_dtype(name))), shape)
            least, _, most = engine.get_tensor_profile_shape(name, 0)
            limits[name] = (tuple(least), tuple(most))
    return infos, limits


def _buffers(trt: Any, cuda: Any, engine: Any, context: Any, taken: frozenset[str]) -> list[_Buffer]:
    """Of every tensor; outputs have their largest shape while the inputs have theirs."""
    buffers = []
    for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        buffers.append(_buffer(cuda, name, name in taken, dtype, tuple(context.get_tensor_shape(name))))
        context.set_tensor_address(name, buffers[-1].device)
    return buffers


def _check_shapes(
    limits: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]], given: tuple[tuple[int, ...], ...]
) -> None:
    """Raise MmedgeError for shapes outside the profile that the engine was built for."""
    for (name, (least, most)), shape in zip(limits.items(), given):
        if len(shape) != len(most) or any(not low <= size <= high for low, size, high in zip(least, shape, most)):
            raise MmedgeError(
                f"{name} has shape {list(shape)}, the engine takes {list(least)} to {list(most)}",
                todo="give smaller batches, or export with a larger max_batch",
            )


def _context(trt: Any, engine: Any, profiler: Any) -> tuple[Any, bool]:
    """An execution context, and whether its runs are to be recorded here.

    TensorRT for RTX records by itself, as soon as it has compiled the kernels for a shape: a recording of ours would
    keep the slow ones that it begins with.
    """
    if profiler is not None:
        context = engine.create_execution_context()
        context.profiler = profiler
        return context, False
    strategy = getattr(trt, "CudaGraphStrategy", None)
    if strategy is None:
        return engine.create_execution_context(), True
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config), False


def _recorded(cuda: Any, context: Any, stream: Any) -> list[Any]:
    """A CUDA graph of one run; none where the engine cannot be recorded, as with shapes that depend on values."""
    _ok(cuda.cudaStreamBeginCapture(stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
    done = context.execute_async_v3(int(stream))
    code, graph = cuda.cudaStreamEndCapture(stream)
    if int(code):
        cuda.cudaGetLastError()  # taken away: the next call that asks would take it for its own
        return []
    found = [_ok(cuda.cudaGraphInstantiate(graph, 0))] if done else []
    _ok(cuda.cudaGraphDestroy(graph))
    return found


def _release(cuda: Any, stream: Any, events: list[Any], buffers: list[_Buffer], recording: list[Any]) -> None:
    """Give back what a session has taken, once nobody can run it any more."""
    for graph in recording:
        cuda.cudaGraphExecDestroy(graph)
    for event in events:
        cuda.cudaEventDestroy(event)
    for buffer in buffers:
        cuda.cudaFreeHost(buffer.host.ctypes.data)
        cuda.cudaFree(buffer.device)
    cuda.cudaStreamDestroy(stream)


def _buffer(cuda: Any, name: str, taken: bool, dtype: np.dtype, shape: tuple[int, ...]) -> _Buffer:
    size = max(int(np.prod(shape)) * dtype.itemsize, 1)
    pinned = int(_ok(cuda.cudaMallocHost(size)))
    host = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pinned))
    return _Buffer(name, taken, dtype, host, int(_ok(cuda.cudaMalloc(size))))


def _copy(cuda: Any, buffer: _Buffer, size: int, stream: Any, *, to_device: bool) -> None:
    host, kinds = buffer.host.ctypes.data, cuda.cudaMemcpyKind
    target, source = (buffer.device, host) if to_device else (host, buffer.device)
    kind = kinds.cudaMemcpyHostToDevice if to_device else kinds.cudaMemcpyDeviceToHost
    _ok(cuda.cudaMemcpyAsync(target, source, size, kind, stream))


def _enqueue(context: Any, stream: Any) -> None:
    if not context.execute_async_v3(int(stream)):
        raise MmedgeError("TensorRT did not run the engine", todo="mmedge export --rebuild BUNDLE on this machine")


def _ok(answer: tuple[Any, ...]) -> Any:
    """The value of a CUDA call; raises MmedgeError where its code is not success."""
    code, *values = answer
    if int(code):
        raise MmedgeError(
            f"CUDA answers {getattr(code, 'name', code)}", todo="mmedge doctor tells what this machine has"
        )
    return values[0] if values else None


def _cuda(name: str) -> Any:
    for module in ("cuda.bindings.runtime", "cuda.cudart"):  # the second: cuda-python before 12.6
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise MissingDependency(f"running {name} engines needs cuda-python", todo=f"pip install 'mmedge[{name}]'")
