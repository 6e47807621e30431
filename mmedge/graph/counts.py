"""What a graph holds and computes: the numbers of its constants, and the multiply-accumulates of its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.graph.structure import outputs_first
from mmedge.graph.wiring import graphs_of


def count(graph: Path) -> tuple[int, int]:
    """(parameters, multiply-accumulates of one sample) of a graph: what its constants hold, and its Conv, Gemm and MatMul do.

    Of branches the costliest counts, since one of them runs; the body of a loop counts once.
    """
    import onnx

    model = onnx.load(graph)
    return _held(model.graph), sum(macs_by_node(model).values())


def macs_by_node(model: Any) -> dict[str, int]:
    """{node: its multiply-accumulates for one sample, as ``count`` says} of a loaded model, whose batch becomes one sample."""
    from onnx import shape_inference

    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:  # old graphs list their weights there, too
        axes = value.type.tensor_type.shape.dim
        if axes and value.name not in constants:
            axes[0].ClearField("dim_param")
            axes[0].dim_value = 1
    return _macs(shape_inference.infer_shapes(model, data_prop=True).graph, {})


def _held(graph: Any) -> int:
    """How many numbers the constants of a graph hold, and of what is inside its nodes."""
    from onnx import numpy_helper

    own = sum(numpy_helper.to_array(each).size for each in graph.initializer if each.data_type in (1, 3, 10, 11, 16))
    return own + sum(_held(inner) for node in graph.node for inner in graphs_of(node))


def _macs(graph: Any, around: Mapping[str, list[int]]) -> dict[str, int]:
    """``around``: {tensor that the graph may read: its shape}."""
    shapes = dict(around)
    for value in [*graph.value_info, *graph.output, *graph.input]:
        shapes[value.name] = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    macs: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        own = max((sum(_macs(inner, shapes).values()) for inner in graphs_of(node)), default=0)
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.output[0] in shapes and node.input[1] in shapes:
            weight, out = shapes[node.input[1]], int(np.prod(shapes[node.output[0]]))
            depth = weight[-1] if outputs_first(node) else weight[-2] if len(weight) > 1 else weight[0]
            own += out * int(np.prod(weight[1:]) if node.op_type == "Conv" else depth)
        macs[node.name or f"#{number}"] = own
    return macs
