"""Where a model's time goes: the target's own profile by layer, grouped by the modality that a layer serves."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends.onnxfile import Node, named, read_nodes

FUSION = "fusion"


def by_target(
    file: Path, target: str, inputs: Mapping[str, np.ndarray], *, threads: int, runs: int = 50
) -> tuple[list[dict[str, Any]], str]:
    """One row a layer in order, {"name", "kind", "branch", "mean_us", "share"}, and what its times are.

    No rows: the target told of none, and the sentence says why.
    """
    match target:
        case "onnxruntime-cpu":
            rows, basis = profile_layers(file, inputs, threads=threads, runs=runs)
        case "onnxruntime-cuda":
            from mmedge.backends import onnxruntime_cuda

            rows, basis = profile_layers(file, inputs, threads=threads, runs=runs, providers=onnxruntime_cuda.PROVIDERS)
        case "openvino-cpu":
            rows, basis = _openvino_layers(file, inputs, threads, runs), "OpenVINO's counters"
        case "tensorrt" | "tensorrt-rtx":
            rows, basis = _tensorrt_layers(file, inputs, target, runs), "TensorRT's layer profiler"
        case _:
            return [], f"no profile by layer is taken on {target}"
    return rows, basis if rows else f"no layer was timed by {basis}"


def _openvino_layers(file: Path, inputs: Mapping[str, np.ndarray], threads: int, runs: int) -> list[dict[str, Any]]:
    from mmedge.backends import openvino_cpu

    times = openvino_cpu.layer_times(file, inputs, threads=threads, runs=runs)
    nodes = [
        Node(
            node.get_friendly_name(),
            str(node.get_rt_info()["layerType"].astype(str))
            if "layerType" in node.get_rt_info()
            else node.get_type_name(),
            tuple(value.get_node().get_friendly_name() for value in node.input_values()),
            (node.get_friendly_name(),),
        )
        for node, _ in times
    ]
    branches = branch_of_nodes(nodes, list(inputs))
    return _rows([(node.name, node.kind, branches[node.name], mean) for node, (_, mean) in zip(nodes, times) if mean])


def _tensorrt_layers(file: Path, inputs: Mapping[str, np.ndarray], target: str, runs: int) -> list[dict[str, Any]]:
    """TensorRT fuses: a layer is of the branch of the ONNX nodes that its name and metadata speak of, in the graph that
    the engine was built from, which lies beside it."""
    from mmedge.backends import tensorrt_session

    times = tensorrt_session.layer_times(file, inputs, target=target, runs=runs)
    graph = file.with_name("model.onnx")
    branches = branch_of_nodes(read_nodes(graph), list(inputs)) if graph.is_file() else {}
    return _rows([(name, "TensorRT", branch_of_layer(f"{name} {said}", branches), mean) for name, said, mean in times])


def branch_of_layer(text: str, branches: Mapping[str, str]) -> str:
    """The one branch of all nodes that ``text`` names as whole words, ``fusion`` where they are of several or none."""
    found = {branches[word] for word in re.split(r"\.\.\.|[\s+,;:\[\](){}\x1e]+", text) if word in branches}
    return next(iter(found)) if len(found) == 1 else FUSION


def profile_layers(
    graph: Path,
    inputs: Mapping[str, np.ndarray],
    *,
    threads: int,
    runs: int = 50,
    warmup: int = 5,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
) -> tuple[list[dict[str, Any]], str]:
    """ONNX Runtime's own profile: a row a node of the optimised graph, and what its times are.

    The profiler costs time of its own, so that only the shares are to be believed; they add up to 1.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        # The nodes that are timed are those of the graph after fusion, which only the runtime can write.
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        content = named(graph)
        if content is not None:  # read from memory: where weights in other files lie must then be said
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(graph.parent.absolute())
            )
        session = onnxruntime.InferenceSession(content or str(graph), options, providers=list(providers))
        for _ in range(warmup + runs):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text())
        nodes = read_nodes(Path(folder) / "optimized.onnx")
    means, basis = _node_times(events, runs=runs, warmup=warmup, gpu=providers[0] != "CPUExecutionProvider")
    branches = branch_of_nodes(nodes, list(inputs))
    rows = _rows(
        [(node.name, node.kind, branches[node.name], means[node.name]) for node in nodes if node.name in means]
    )
    return rows, basis


def _node_times(
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


def _rows(timed: Sequence[tuple[str, str, str, float]]) -> list[dict[str, Any]]:
    """Rows of (name, kind, branch, microseconds), with their shares."""
    total = sum(mean for *_, mean in timed) or 1.0
    return [
        {"name": name, "kind": kind, "branch": branch, "mean_us": mean, "share": mean / total}
        for name, kind, branch, mean in timed
    ]


def by_branch(layers: list[dict[str, Any]]) -> dict[str, float]:
    """{branch: share of the time}, largest first."""
    shares: dict[str, float] = {}
    for layer in layers:
        shares[layer["branch"]] = shares.get(layer["branch"], 0.0) + layer["share"]
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def branch_of_nodes(nodes: list[Node], inputs: list[str]) -> dict[str, str]:
    """{node name: the one modality that reaches it, or ``fusion`` where several do, or none}.

    ``present`` belongs to no branch: it is everywhere. ``nodes`` are in topological order.
    """
    reached: dict[str, frozenset[str]] = {name: frozenset({name}) - {"present"} for name in inputs}
    branches = {}
    for node in nodes:
        sources = frozenset().union(*(reached.get(name, frozenset()) for name in node.inputs))
        if node.inputs:  # OpenVINO has a node for each input, too
            reached |= dict.fromkeys(node.outputs, sources)
        branches[node.name] = next(iter(sources)) if len(sources) == 1 else FUSION
    return branches
