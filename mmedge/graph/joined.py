"""Linear layers that read one tensor are one layer, whose outputs are split: the projections of an attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmedge.graph import structure
from mmedge.graph.qdq import AND, JOINED, label_of
from mmedge.graph.wiring import Wiring, drop_unread, put_nodes


def join(model: Any) -> int:
    """Make one MatMul, one Add and a Split, in place, of MatMuls with biases that read the same; returns how many went.

    A product of few rows takes as long as its weights take to be read, and each kernel some microseconds beside: one kernel
    of three times the width is faster than three, and has one bias to add.
    """
    from onnx import helper, numpy_helper

    wiring, given = Wiring(model), {value.name for value in model.graph.output}
    alike: dict[tuple[str, int], list[tuple[Any, Any, int]]] = {}
    for node in structure.weighted(wiring):
        bias = structure.bias_of(node, wiring) if node.op_type == "MatMul" else None
        if bias is not None and len(wiring.readers[node.output[0]]) == 1 and node.output[0] not in given:
            key = node.input[0], wiring.constants[node.input[1]].dims[0]
            alike.setdefault(key, []).append((node, *bias))
    gone: dict[str, list[Any]] = {}  # by first output: a foreign graph need not name its nodes
    for (x, _), layers in alike.items():
        if len(layers) < 2:
            continue
        name = AND.join(node.name for node, _, _ in layers)
        label = AND.join(label_of(node.input[1], node, wiring) for node, _, _ in layers)
        weights = [wiring.value(node.input[1]) for node, _, _ in layers]
        parts = {
            f"{label}.weight": np.concatenate(weights, axis=1),
            f"{label}.bias": np.concatenate([wiring.value(add.input[place]) for _, add, place in layers]),
            "sizes": np.array([weight.shape[1] for weight in weights], np.int64),
        }
        model.graph.initializer.extend(
            numpy_helper.from_array(value, f"{key}{JOINED}{name}") for key, value in parts.items()
        )
        stored = [f"{key}{JOINED}{name}" for key in parts]
        gone[layers[0][0].output[0]] = [
            helper.make_node("MatMul", [x, stored[0]], [f"{name}.product"], name),
            helper.make_node("Add", [f"{name}.product", stored[1]], [f"{name}.sum"], f"{name}.sum"),
            helper.make_node(
                "Split", [f"{name}.sum", stored[2]], [add.output[0] for _, add, _ in layers], f"{name}.split", axis=-1
            ),
        ]  # fmt: skip
        gone |= {node.output[0]: [] for node, _, _ in layers[1:]} | {add.output[0]: [] for _, add, _ in layers}
    if not gone:
        return 0
    nodes = [made for node in wiring.nodes for made in gone.get(node.output[0] if node.output else "", [node])]
    put_nodes(model.graph, nodes)
    del model.graph.value_info[:]
    drop_unread(model)
    return len(gone)
