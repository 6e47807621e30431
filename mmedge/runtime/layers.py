"""Where a graph's time goes: ONNX Runtime's own profile by layer, grouped by the modality that a layer serves."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.runtime.onnxfile import Node, read_nodes

FUSION = "fusion"


def by_target(
    file: Path, target: str, inputs: Mapping[str, np.ndarray], *, threads: int, runs: int = 50
) -> list[dict[str, Any]] | None:
    """One row a layer in order, {"name", "kind", "branch", "mean_us", "share"}; None where the target has no profile."""
    match target:
        case "onnxruntime-cpu":
            return profile_layers(file, inputs, threads=threads, runs=runs)
        case "openvino-cpu":
            return _openvino_layers(file, inputs, threads, runs)
    return None


def _openvino_layers(file: Path, inputs: Mapping[str, np.ndarray], threads: int, runs: int) -> list[dict[str, Any]]:
    from mmedge.runtime.targets import openvino_cpu

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
    timed = [(node, mean) for node, (_, mean) in zip(nodes, times) if mean]
    total = sum(mean for _, mean in timed) or 1.0
    return [
        {"name": node.name, "kind": node.kind, "branch": branches[node.name], "mean_us": mean, "share": mean / total}
        for node, mean in timed
    ]


def profile_layers(
    graph: Path, inputs: Mapping[str, np.ndarray], *, threads: int, runs: int = 50, warmup: int = 5
) -> list[dict[str, Any]]:
    """One row a node of the optimised graph, in order: {"name", "kind", "branch", "mean_us", "share"}.

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
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        for _ in range(warmup + runs):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text())
        nodes = read_nodes(Path(folder) / "optimized.onnx")
    spans: dict[str, list[int]] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            spans.setdefault(name.removesuffix("_kernel_time"), []).append(event["dur"])
    branches = branch_of_nodes(nodes, list(inputs))
    means = {node.name: float(np.mean(spans[node.name][warmup:])) for node in nodes if node.name in spans}
    total = sum(means.values()) or 1.0
    return [
        {
            "name": node.name,
            "kind": node.kind,
            "branch": branches[node.name],
            "mean_us": means[node.name],
            "share": means[node.name] / total,
        }
        for node in nodes
        if node.name in means
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
