"""Where two graphs part: the first tensor that differs, found by bisection over their common tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.graph.wiring import drop_unread, read_by


@dataclass(frozen=True)
class Divergence:
    """The node behind the first tensor that differs. ``relative``: largest difference over the reference's largest value."""

    node: str
    kind: str
    tensor: str
    relative: float

    def __str__(self) -> str:
        return f"first node that differs: {self.node} ({self.kind}), by {self.relative:.2g} of its largest output"


def first_difference(
    reference: Path, other: Path, inputs: Mapping[str, np.ndarray], *, tolerance: float, output: str | None = None
) -> Divergence | None:
    """The first node of ``other`` whose output is further than ``tolerance`` from the reference's; None where none is.

    ``output``: the graphs' output that differs; the first, where none is named. Only what leads to it is looked at.

    Tensors of the same name are compared, in the reference's order, by running sub-graphs of both without fusions. A
    difference is taken to stay once it is there, as it does in a network.
    """
    import onnx

    models = [onnx.shape_inference.infer_shapes(onnx.load(graph)) for graph in (reference, other)]
    by_output = [{name: node for node in model.graph.node for name in node.output} for model in models]
    typed = [{value.name for value in [*model.graph.value_info, *model.graph.output]} for model in models]
    leading = _leading_to(by_output[0], output or models[0].graph.output[0].name)
    tensors = [
        name
        for node in models[0].graph.node
        for name in node.output
        if name in leading and name in by_output[1] and all(name in t for t in typed)
    ]
    known: dict[str, float] = {}

    def differs(tensor: str) -> bool:
        if tensor not in known:
            values = [_value(model, tensor, inputs) for model in models]
            known[tensor] = relative(*values)
        return not known[tensor] <= tolerance  # written so that NaN differs

    if not tensors or not differs(tensors[-1]):
        return None
    low, high = 0, len(tensors) - 1
    while low < high:
        middle = (low + high) // 2
        if differs(tensors[middle]):
            high = middle
        else:
            low = middle + 1
    tensor = tensors[low]
    # Branches lie one after the other in the file, so that bisection may have passed one by: back along its sources.
    while (before := next((t for t in _sources(by_output[0], set(tensors), tensor) if differs(t)), None)) is not None:
        tensor = before
    node = by_output[1][tensor]
    return Divergence(node.name or tensor, node.op_type, tensor, known.get(tensor, float("nan")))


def _leading_to(by_output: Mapping[str, Any], output: str) -> set[str]:
    """All tensors that ``output`` is computed from, and itself."""
    found, open_ = set(), [output]
    while open_:
        name = open_.pop()
        if name in by_output and name not in found:
            found.add(name)
            open_ += read_by(by_output[name])
    return found


def _sources(by_output: Mapping[str, Any], common: set[str], tensor: str) -> list[str]:
    """The nearest tensors of ``common`` that ``tensor`` is computed from."""
    found, open_, seen = [], list(read_by(by_output[tensor])), set()
    while open_:
        name = open_.pop()
        if name in seen or name not in by_output:
            continue
        seen.add(name)
        if name in common:
            found.append(name)
        else:
            open_ += read_by(by_output[name])
    return found


def _value(model: Any, tensor: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a graph computes for one of its tensors."""
    import onnx

    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:]
    part.graph.output.append(onnx.ValueInfoProto(name=tensor))
    drop_unread(part)
    session = onnxruntime_cpu.session(part.SerializeToString(), optimize=False)
    return session({name: inputs[name] for name in session.inputs})[tensor]


def relative(expected: np.ndarray, actual: np.ndarray) -> float:
    """The largest difference over the largest expected value, both where both are finite.

    Infinite where the shapes differ, or one holds NaN or infinity where the other has something else.
    """
    if expected.shape != actual.shape:
        return float("inf")
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(expected) & np.isfinite(actual)
    if not np.array_equal(expected[~finite], actual[~finite], equal_nan=True):
        return float("inf")
    expected, actual = expected[finite], actual[finite]
    scale = float(np.abs(expected).max(initial=0)) or 1.0
    return float(np.abs(expected - actual).max(initial=0)) / scale
