"""Building TensorRT and TensorRT for RTX engines: the same API, one code path, parameterised by the module.

Networks are strongly typed: the precision is what the ONNX graph says (FP16 tensors, Q/DQ pairs), never a builder flag.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmedge.artifact import replacing, sha256_of
from mmedge.errors import MismatchError, MissingDependency, MmedgeError
from mmedge.spec import Contract

PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}

# Of every input, its least shape, the one to optimise for, and its largest, batch axis and all.
Profiles = Mapping[str, Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Options:
    """How an engine is built. None: the builder's own default.

    ``workspace_mb``: the most scratch memory a layer may take. ``level``: builder optimisation level, 0 to 5.
    ``timing_cache``: a file that is read, kept and added to. ``version_compatible``, ``hardware_compatible``: engines
    that run on other versions, or other GPUs from Ampere on.
    """

    workspace_mb: int | None = None
    level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False


def module_of(target: str) -> Any:
    """The target's Python module; raises MissingDependency with the command that installs it."""
    try:
        return importlib.import_module(PACKAGES[target])
    except ImportError as error:
        raise MissingDependency(
            f"the target {target} was asked for and its package is not installed",
            todo=f"pip install 'mmedge[{target}]'",
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


@undisturbed()
def build(graph: Path, engine: Path, *, target: str, profiles: Profiles, options: Options) -> dict[str, Any]:
    """Build an engine from an ONNX graph. Needs no GPU with tensorrt-rtx.

    Returns what the bundle must remember: version, layers, profiles, and the options to build it again with.
    Raises MmedgeError with every node that is not supported, and with every parser error, by node.
    """
    trt = module_of(target)
    logger = collector(trt)
    unsupported = unsupported_nodes(graph, target)
    if unsupported:
        raise MmedgeError(
            f"{target} does not support every node of the graph: {'; '.join(unsupported)}",
            where=str(graph),
            todo="write these layers of the model with other operations, or leave the target out",
        )
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise MmedgeError(
            f"{target} cannot parse the graph: {'; '.join(_parser_errors(parser)) or logger.worst}", where=str(graph)
        )
    config = builder.create_builder_config()
    notes: list[str] = []
    profile = builder.create_optimization_profile()
    for name, shapes in profiles.items():
        profile.set_shape(name, *map(tuple, shapes))
    config.add_optimization_profile(profile)
    cache = _configure(trt, config, options, notes)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise MmedgeError(
            f"{target} did not build the engine: {logger.worst or 'no reason given'}",
            where=str(graph),
            todo=f"raise export.targets.{target}.workspace_mb" if "workspace" in logger.worst else None,
        )
    engine.write_bytes(bytes(serialized))
    _keep(cache, options)
    capability = compute_capability()
    return {
        "version": trt.__version__,
        "layers": network.num_layers,
        "weight_types": _weight_types(network),
        "int8_layers": _int8_layers(network),
        "batch": _batches(profiles),
        "profiles": {name: [list(shape) for shape in shapes] for name, shapes in profiles.items()},
        **{name: asked for name in ("workspace_mb", "level") if (asked := getattr(options, name)) is not None},
        "version_compatible": options.version_compatible,
        "hardware_compatible": options.hardware_compatible or target == "tensorrt-rtx",
        **({"compute_capability": capability} if capability else {}),
        **({"notes": notes} if notes else {}),
    }


def build_part(
    folder: Path, graph: str, *, target: str, profiles: Profiles, options: Options
) -> tuple[str, dict[str, Any]]:
    """Build the engine of a subset or a part beside ``graph`` in ``folder``: (its file, what the bundle remembers of it)."""
    file = str(Path(graph).with_suffix(".plan").as_posix())
    built = build(folder / graph, folder / file, target=target, profiles=profiles, options=options)
    own = {field: built[field] for field in ("layers", "weight_types", "profiles")}
    return file, {"graph": graph, "graph_sha256": sha256_of(folder / graph), **own}


def profiles_of(contract: Contract, batch: tuple[int, int, int] = (1, 1, 8)) -> dict[str, list[list[int]]]:
    """Of every input of a bundle's graph: optimised for the whole length, where its length is dynamic.

    ``batch``: (least, optimised for, largest).
    """
    shapes = {name: [spec.shape] * 3 for name, spec in contract.modalities.items()}
    for name, spec in contract.modalities.items():
        if spec.shortest is not None:
            shapes[name][0] = (*spec.shape[:-1], spec.shortest)
    shapes["present"] = [(len(contract.modalities),)] * 3
    return {name: [[rows, *shape] for rows, shape in zip(batch, each)] for name, each in shapes.items()}


def _batches(profiles: Profiles) -> list[int]:
    """The least and the largest batch."""
    least, _, most = next(iter(profiles.values()))
    return [least[0], most[0]]


@undisturbed()
def unsupported_nodes(graph: Path, target: str) -> list[str]:
    """The nodes that the target's parser does not take, each as "name (operator)": asked before a long build."""
    trt = module_of(target)
    logger = collector(trt)
    # The builder must outlive the parser: the network is its own.
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    asked = parser.supports_model_v2 if hasattr(parser, "supports_model_v2") else parser.supports_model
    answer = asked(graph.read_bytes(), str(graph))  # the path: where weights in a file beside it are looked for
    if answer is True or (isinstance(answer, tuple) and answer[0]):
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
    told = []
    for error in (parser.get_error(index) for index in range(parser.num_errors)):
        number, operator, reason = error.node(), error.node_operator(), error.desc()
        name = error.node_name() or (f"node {number}" if number >= 0 else "")
        node = f"{name} ({operator})" if operator else name
        told.append(": ".join(part for part in (node, "" if reason == "false" else reason) if part))
    return told


def _configure(trt: Any, config: Any, options: Options, notes: list[str]) -> Any:
    """Set what was asked for; what this version does not offer is noted. Returns the timing cache, where there is one."""
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    if options.level is not None:
        config.builder_optimization_level = options.level
    # The engine keeps which ONNX nodes a layer was made of, so that its profile can be told by modality.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        level = getattr(trt.HardwareCompatibilityLevel, "AMPERE_PLUS", None)
        if level is None:
            notes.append("hardware compatibility is what this TensorRT always builds")
        else:
            config.hardware_compatibility_level = level
    # TensorRT for RTX times its kernels on the device; its timing caches are kept for the API's sake and hold nothing.
    if options.timing_cache is None or trt.__name__ == PACKAGES["tensorrt-rtx"]:
        return None
    cache = config.create_timing_cache(options.timing_cache.read_bytes() if options.timing_cache.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        # One of another version or GPU is refused: a new one is begun.
        cache = config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            notes.append("no timing cache: this TensorRT keeps none")
            return None
    return cache


def _keep(cache: Any, options: Options) -> None:
    """Write the timing cache, with what this build added, for the next one."""
    if cache is not None and options.timing_cache is not None:
        with replacing(options.timing_cache) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))


def compute_capability() -> str | None:
    """Of the first GPU, as "8.7"; None where there is none."""
    from mmedge.machine import nvidia_gpus

    gpus = nvidia_gpus()
    return gpus[0].get("compute_capability") if gpus else None


def check_engine(engine: Mapping[str, Any], target: str) -> str | None:
    """Why an engine does not belong to this machine, in a few words; None where it does, as far as metadata tells."""
    here = module_of(target).__version__
    if engine["version"] != here and not engine.get("version_compatible"):
        return f"it was built by {target} {engine['version']}, and here is {here}"
    built_for, capability = engine.get("compute_capability"), compute_capability()
    if built_for and capability and built_for != capability and not engine.get("hardware_compatible"):
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


def check_precision(built: Mapping[str, Any], precision: str, target: str) -> None:
    """Raise MismatchError where the network that was built does not compute in the precision asked for."""
    wanted = {"fp32": "float", "fp16": "half", "int8": "int8"}[precision]
    if not built["weight_types"].get(wanted):
        raise MismatchError(
            f"{precision} was asked for and the {target} network has no {wanted} tensor",
            todo="export another precision, and report this graph",
        )


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
