"""Building TensorRT and TensorRT for RTX engines: the same API, one code path, parameterised by the module.

Networks are strongly typed: the precision is what the ONNX graph says (FP16 tensors, Q/DQ pairs), never a builder flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from mmedge.artifact import replacing
from mmedge.backends import backend, missing
from mmedge.backends.backend import Backend, Job, LayerTimes, Opening
from mmedge.backends.engine import Engine
from mmedge.backends.session import Session
from mmedge.backends.tensorrt_package import PACKAGES, collector, module_of, undisturbed
from mmedge.errors import MismatchError, MmedgeError
from mmedge.machine import jetson, nvidia_gpus


class Options(backend.Options):
    """How TensorRT builds an engine; what is null is left to the builder."""

    workspace_mb: int | None = Field(None, ge=1, description="The most scratch memory that a layer may take, in MB.")
    level: int | None = Field(None, ge=0, le=5, description="The builder's optimisation level.")
    version_compatible: bool = Field(False, description="The engine runs on other versions of TensorRT too.")
    hardware_compatible: bool = Field(False, description="The engine runs on other GPUs too, from Ampere on.")


@undisturbed()
def build(name: str, job: Job) -> Engine:
    """Build an engine from an ONNX graph. Needs no GPU with tensorrt-rtx.

    Raises MmedgeError with every node that is not supported, and with every parser error, by node; MismatchError where
    the network does not compute in the precision asked for.
    """
    trt = module_of(name)
    logger = collector(trt)
    unsupported = unsupported_nodes(job.graph, name)
    if unsupported:
        raise MmedgeError(
            f"{name} does not support every node of the graph: {'; '.join(unsupported)}",
            where=str(job.graph),
            todo="write these layers of the model with other operations, or leave the target out",
        )
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(job.graph)):
        raise MmedgeError(
            f"{name} cannot parse the graph: {'; '.join(_parser_errors(parser)) or logger.worst}", where=str(job.graph)
        )
    config = builder.create_builder_config()
    notes: list[str] = []
    profile = builder.create_optimization_profile()
    for given, shapes in job.profiles.items():
        profile.set_shape(given, *map(tuple, shapes))
    config.add_optimization_profile(profile)
    cache = _configure(trt, config, job, notes)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise MmedgeError(
            f"{name} did not build the engine: {logger.worst or 'no reason given'}",
            where=str(job.graph),
            todo=f"raise export.targets.{name}.workspace_mb" if "workspace" in logger.worst else None,
        )
    file = f"{job.stem}.plan"
    job.graph.with_name(file).write_bytes(bytes(serialized))
    _keep(cache, job.timings)
    built = _described(name, trt.__version__, network, job)
    if job.precision is not None:
        _check_precision(built, job.precision, name)
    return built.model_copy(update={"notes": notes} if notes else {})


def _described(name: str, version: str, network: Any, job: Job) -> Engine:
    """What the bundle must remember of an engine: all that it takes to build it again is in it."""
    options, capability = job.options, compute_capability()
    assert isinstance(options, Options)
    file = f"{job.stem}.plan"
    least, _, most = next(iter(job.profiles.values()))
    limits = {field: value for field in ("workspace_mb", "level") if (value := getattr(options, field)) is not None}
    return Engine.model_validate(
        {
            "file": file,
            "files": [file],
            "version": version,
            "layers": network.num_layers,
            "weight_types": _weight_types(network),
            "int8_layers": _int8_layers(network),
            "batch": [least[0], most[0]],
            "profiles": job.profiles,
            **limits,
            "version_compatible": options.version_compatible,
            "hardware_compatible": options.hardware_compatible or name == "tensorrt-rtx",
            **({"compute_capability": capability} if capability else {}),
        }
    )


@undisturbed()
def unsupported_nodes(graph: Path, name: str) -> list[str]:
    """The nodes that TensorRT's parser does not take, each as "name (operator)": asked before a long build."""
    trt = module_of(name)
    logger = collector(trt)
    # The builder must outlive the parser: the network is its own.
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    supports = parser.supports_model_v2 if hasattr(parser, "supports_model_v2") else parser.supports_model
    found = supports(graph.read_bytes(), str(graph))  # the path: where weights in a file beside it are looked for
    if found is True or (isinstance(found, tuple) and found[0]):
        return []
    from mmedge.backends.onnxfile import read_nodes

    # The parser's own errors name the node; its subgraphs list what it does take, so that they do not tell.
    refused = _parser_errors(parser)
    unknown = [f"{node.name} ({node.kind})" for node in read_nodes(graph) if not parser.supports_operator(node.kind)]
    return refused or unknown or [logger.worst or "the parser names none"]


def _strongly_typed(trt: Any) -> int:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    # TensorRT 11 knows nothing else and has dropped the flag.
    return 0 if flag is None else 1 << int(flag)


def _parser_errors(parser: Any) -> list[str]:
    """Each as "name (operator): reason"; a node without a name is told by its number, one that is not known has no reason."""
    found = []
    for error in (parser.get_error(index) for index in range(parser.num_errors)):
        number, operator, reason = error.node(), error.node_operator(), error.desc()
        name = error.node_name() or (f"node {number}" if number >= 0 else "")
        node = f"{name} ({operator})" if operator else name
        found.append(": ".join(part for part in (node, "" if reason == "false" else reason) if part))
    return found


def _configure(trt: Any, config: Any, job: Job, notes: list[str]) -> Any:
    """Set what was asked for; what this version does not offer is noted. Returns the timing cache, where there is one."""
    options, rtx = job.options, trt.__name__ == PACKAGES["tensorrt-rtx"]
    assert isinstance(options, Options)
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    if options.level is not None:
        config.builder_optimization_level = options.level
    # The engine keeps which ONNX nodes a layer was made of, so that its profile can be told by modality.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    skips = getattr(trt.BuilderFlag, "SPARSE_WEIGHTS", None)
    if skips is not None:  # where weights are 2:4 zeros, kernels that skip them are among those that are timed
        config.set_flag(skips)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible and not rtx:  # its engines always run on every GPU from Ampere on
        level = getattr(trt.HardwareCompatibilityLevel, "AMPERE_PLUS", None)
        if level is None:
            notes.append("hardware compatibility is what this TensorRT always builds")
        else:
            config.hardware_compatibility_level = level
    # TensorRT for RTX times its kernels on the device; its timing caches are kept for the API's sake and hold nothing.
    if job.timings is None or rtx:
        return None
    cache = config.create_timing_cache(job.timings.read_bytes() if job.timings.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        # One of another version or GPU is refused: a new one is begun.
        cache = config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            notes.append("no timing cache: this TensorRT keeps none")
            return None
    return cache


def _keep(cache: Any, timings: Path | None) -> None:
    """Write the timing cache, with what this build added, for the next one."""
    if cache is not None and timings is not None:
        with replacing(timings) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))


def compute_capability() -> str | None:
    """Of the first GPU, as "8.7"; None where there is none."""
    gpus = nvidia_gpus()
    return gpus[0].compute_capability if gpus else None


def belongs(name: str, engine: Engine) -> str | None:
    """Why an engine does not belong to this machine, in a few words; None where it does, as far as its entry tells."""
    here = module_of(name).__version__
    if engine.version != here and not engine.version_compatible:
        return f"it was built by {name} {engine.version}, and here is {here}"
    built_for, capability = engine.compute_capability, compute_capability()
    if built_for and capability and built_for != capability and not engine.hardware_compatible:
        return f"it was built for compute capability {built_for}, and this GPU has {capability}"
    return None


def _weight_types(network: Any) -> dict[str, int]:
    """How many layer outputs the parsed, strongly typed network has of each type: the precision that is built."""
    counts: dict[str, int] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for position in range(layer.num_outputs):
            name = str(layer.get_output(position).dtype).rsplit(".", 1)[-1].lower()
            counts[name] = counts.get(name, 0) + 1
    return counts


def _int8_layers(network: Any) -> list[str]:
    """Names of the convolutions and products whose data and weights are both dequantized: the builder runs them in INT8.

    Which kernels it then took, an engine tells only where it can be loaded: on a GPU.
    """
    made_by = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for position in range(layer.num_outputs):
            made_by[layer.get_output(position).name] = layer

    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = str(layer.type).rsplit(".", 1)[-1]
        weighted = kind in ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY") and layer.num_inputs > 1
        if weighted and all(_dequantized(layer.get_input(place), made_by) for place in (0, 1)):
            found.append(layer.name)
    return found


def _dequantized(tensor: Any, made_by: Mapping[str, Any]) -> bool:
    """Whether a tensor comes from INT8 by nothing but what moves values. ``made_by``: {tensor's name: its layer}."""
    layer = made_by.get(tensor.name) if tensor is not None else None
    if layer is None:
        return False
    kind = str(layer.type).rsplit(".", 1)[-1]
    if kind in ("SHUFFLE", "CONCATENATION", "SLICE", "POOLING"):
        inputs = range(layer.num_inputs if kind == "CONCATENATION" else 1)
        return all(_dequantized(layer.get_input(place), made_by) for place in inputs)
    return kind == "DEQUANTIZE"


def _check_precision(built: Engine, precision: str, name: str) -> None:
    """Raise MismatchError where the network that was built does not compute in the precision asked for."""
    wanted = {"fp32": "float", "fp16": "half", "int8": "int8"}[precision]
    if not (built.model_extra or {})["weight_types"].get(wanted):
        raise MismatchError(
            f"{precision} was asked for and the {name} network has no {wanted} tensor",
            todo="export another precision, and report this graph",
        )


def _open(name: str, file: Path | bytes, opening: Opening) -> Session:
    from mmedge.backends import tensorrt_session

    assert isinstance(file, Path), "engines are files"

    return tensorrt_session.session(file, name, host_code=opening.host_code)


def _layer_times(name: str, file: Path, inputs: Mapping[str, np.ndarray], threads: int, runs: int) -> LayerTimes:
    from mmedge.backends import tensorrt_session

    return tensorrt_session.layer_times(file, inputs, name, runs)


def _missing_to_build(name: str) -> list[missing.Missing]:
    get = f"pip install 'mmedge[{name}]'"
    if name == "tensorrt" and jetson():
        get = "sudo apt-get install nvidia-jetpack python3-libnvinfer"
    return missing.package(PACKAGES[name], get)


def _missing_to_run(name: str) -> list[missing.Missing]:
    return [*_missing_to_build(name), *missing.package("cuda", f"pip install 'mmedge[{name}]'"), *missing.gpu()]


def backend_of(name: str, options: type[Options] = Options) -> Backend:
    """TensorRT's row, or TensorRT for RTX's."""
    return Backend(
        name=name,
        open=partial(_open, name),
        layer_times=partial(_layer_times, name),
        missing_to_run=partial(_missing_to_run, name),
        missing_to_build=partial(_missing_to_build, name),
        build=partial(build, name),
        options=options,
        lacks={
            "int8-weights": "it computes in float where weights alone are INT8: nobody asks for that with int8",
            "int4-weights": "mmedge has not tried 4-bit weights there",
            "int8-dynamic": "it has no ranges that are found while it runs",
            "int8-hybrid": "it has no ranges that are found while it runs",
        },
        runs_graphs=False,
        gpu=True,
        symmetric=True,
        sparse=True,
        belongs=partial(belongs, name),
    )


BACKEND = backend_of("tensorrt")
