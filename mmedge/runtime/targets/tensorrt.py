"""TensorRT and TensorRT for RTX: the same API, one code path, parameterised by the module.

Networks are strongly typed: the precision is what the ONNX graph says (FP16 tensors, Q/DQ pairs), never a builder flag.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmedge.errors import MismatchError, MissingDependency, MmedgeError

PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def module_of(target: str) -> Any:
    """The target's Python module; raises MissingDependency with the command that installs it."""
    try:
        return importlib.import_module(PACKAGES[target])
    except ImportError as error:
        raise MissingDependency(
            f"the target {target} was asked for and its package is not installed",
            todo=f"pip install 'mmedge[{target}]'",
        ) from error


def build(
    graph: Path, engine: Path, *, target: str, shapes: Mapping[str, tuple[int, ...]], max_batch: int
) -> dict[str, Any]:
    """Build an engine from an ONNX graph. Needs no GPU with tensorrt-rtx.

    ``shapes``: {input: shape without the batch axis}; the profile goes from batch 1 (which is also optimised for) to
    ``max_batch``. Returns what the bundle must remember: version, layers, batch range.
    Raises MmedgeError with every parser error, by node, and MismatchError where the engine's precision is not the graph's.
    """
    trt = module_of(target)
    logger = _collector(trt)
    builder = trt.Builder(logger)
    flags = 0
    if hasattr(
        trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"
    ):  # TensorRT 11 knows nothing else and has dropped the flag
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        listed = "; ".join(
            f"node {error.node_name() or error.node()} ({error.node_operator()}): {error.desc()}" for error in errors
        )
        raise MmedgeError(f"{target} cannot parse the graph: {listed or logger.worst}", where=str(graph))
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, (1, *shape), (1, *shape), (max_batch, *shape))
    config.add_optimization_profile(profile)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise MmedgeError(f"{target} did not build the engine: {logger.worst or 'no reason given'}", where=str(graph))
    engine.write_bytes(bytes(serialized))
    return {
        "version": trt.__version__,
        "layers": network.num_layers,
        "weight_types": _weight_types(trt, network),
        "batch": [1, max_batch],
    }


def session(engine: Path, *, target: str, threads: int = 1):
    """Deserialize an engine. Raises MissingDependency where there is no GPU to run it on."""
    trt = module_of(target)
    runtime = trt.Runtime(_collector(trt))
    if runtime is None or runtime.deserialize_cuda_engine(engine.read_bytes()) is None:
        raise MissingDependency(
            f"the {target} engine cannot be loaded on this machine",
            where=str(engine),
            todo="run it on a GPU of the kind it was built for, or load the bundle with target='onnxruntime-cpu'",
        )
    raise MissingDependency(
        f"running {target} engines is not part of this version", todo="load the bundle with target='onnxruntime-cpu'"
    )


def _weight_types(trt: Any, network: Any) -> dict[str, int]:
    """How many layer outputs the parsed, strongly typed network has of each type: the precision that is built."""
    counts: dict[str, int] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for position in range(layer.num_outputs):
            name = str(layer.get_output(position).dtype).rsplit(".", 1)[-1].lower()
            counts[name] = counts.get(name, 0) + 1
    return counts


def check_precision(built: Mapping[str, Any], precision: str, target: str) -> None:
    """Raise MismatchError where the network that was built does not compute in the precision asked for."""
    wanted = {"fp32": "float", "fp16": "half", "int8": "int8"}[precision]
    if not built["weight_types"].get(wanted):
        raise MismatchError(
            f"{precision} was asked for and the {target} network has no {wanted} tensor",
            todo="export another precision, and report this graph",
        )


def _collector(trt: Any) -> Any:
    """A logger that keeps the last error instead of printing it."""

    class Collector(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.worst = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.worst = message

    return Collector()
