"""Where a graph's time goes: ONNX Runtime's own profile by layer, grouped by the modality that a layer serves."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError

FUSION = "fusion"


@dataclass(frozen=True)
class Node:
    """A node of an ONNX graph."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


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
        reached |= dict.fromkeys(node.outputs, sources)
        branches[node.name] = next(iter(sources)) if len(sources) == 1 else FUSION
    return branches


def read_nodes(file: Path) -> list[Node]:
    """The nodes of an ONNX file, in order, read from the protobuf itself: the device has no ``onnx`` package.

    Field numbers are those of onnx.proto: ModelProto.graph = 7, GraphProto.node = 1, NodeProto.input = 1, output = 2,
    name = 3, op_type = 4. Raises MmedgeError for a file that is no protobuf.
    """
    data = memoryview(file.read_bytes())
    nodes = []
    try:
        for graph in (body for field, body in _fields(data) if field == 7):
            for node in (body for field, body in _fields(graph) if field == 1):
                parts: dict[int, list[str]] = {1: [], 2: [], 3: [""], 4: [""]}
                for field, body in _fields(node):
                    if field in parts:
                        parts[field].append(str(body, "utf-8"))
                nodes.append(Node(parts[3][-1], parts[4][-1], tuple(parts[1]), tuple(parts[2])))
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        raise MmedgeError("the file is not an ONNX graph", where=str(file)) from error
    return nodes


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, bytes) of a message's length-delimited fields; the others are skipped."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                size, at = _varint(data, at)
                if at + size > len(data):
                    raise ValueError("a field ends after its message")
                yield tag >> 3, data[at : at + size]
                at += size
            case kind:
                raise ValueError(f"wire type {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")
