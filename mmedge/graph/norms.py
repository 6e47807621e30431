"""Layer norms that a graph spells out in nine nodes, as exporters write them for opsets before 17: found, and made one node again."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmedge.graph.wiring import Wiring, drop_unread, integer_of, put_nodes, renamed

# The first opset that has LayerNormalization.
OPSET = 17


def spelled_out(model: Any) -> bool:
    """Whether a graph may have a layer norm that ``join`` makes one node of."""
    return {"ReduceMean", "Sqrt", "Div"} <= {node.op_type for node in model.graph.node}


def join(model: Any) -> int:
    """Put one LayerNormalization in the place of each layer norm over the last axis that is spelled out; returns how many.

    In place; the model is of opset 17 or newer. Ba, Kiros & Hinton 2016: (x - mean) / sqrt(variance + epsilon) * gain + bias.
    """
    from onnx import helper

    _store_constants(model.graph)
    wiring, count = Wiring(model), 0
    for at, node in enumerate(wiring.nodes):
        found = _norm(node, wiring)
        if found is not None:
            x, gain, bias, epsilon = found
            whole = helper.make_node(
                "LayerNormalization", [x, gain, bias], list(node.output), node.name, axis=-1, epsilon=epsilon
            )
            model.graph.node[at].CopyFrom(whole)
            count += 1
    drop_unread(model)
    return count


def _store_constants(graph: Any) -> None:
    """Make stored tensors of what Constant nodes hold, and read those under one name alone, in place."""
    other: dict[str, str] = {}  # names that an Identity gives to a stored tensor
    stored = {tensor.name for tensor in graph.initializer}
    kept, outputs = [], {value.name for value in graph.output}
    for node in graph.node:
        held = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if node.op_type == "Constant" and held is not None and node.output[0] not in outputs:
            held.name = node.output[0]
            graph.initializer.append(held)
            stored.add(held.name)
        elif node.op_type == "Identity" and node.input[0] in stored | set(other) and node.output[0] not in outputs:
            other[node.output[0]] = other.get(node.input[0], node.input[0])
        else:
            kept.append(node)
    put_nodes(graph, kept)
    renamed(graph, other)


def _norm(add: Any, wiring: Wiring) -> tuple[str, str, str, float] | None:
    """(x, gain, bias, epsilon) of the layer norm whose last node is ``add``; None where it is none."""
    scaled, bias = _with_constant(add, "Add", wiring)
    normed, gain = _with_constant(scaled, "Mul", wiring)
    if normed is None or normed.op_type != "Div" or not _is_vector(gain, wiring) or not _is_vector(bias, wiring):
        return None
    centred, root = (wiring.made_by.get(name) for name in normed.input)
    spread, epsilon = _with_constant(_made(root, "Sqrt", wiring), "Add", wiring)
    x = _centred(centred, wiring)
    squared = _mean_of(spread, wiring)
    if x is None or squared is None or wiring.value(epsilon).size != 1 or _squared_of(squared, wiring) != x:
        return None
    return x, gain, bias, float(wiring.value(epsilon).reshape(()))


def _made(node: Any, kind: str, wiring: Wiring) -> Any:
    """The node that makes the first input of ``node``, where this is of a ``kind``."""
    return wiring.made_by.get(node.input[0]) if node is not None and node.op_type == kind else None


def _with_constant(node: Any, kind: str, wiring: Wiring) -> tuple[Any, str]:
    """(the node that makes one input of ``node``, the stored one that is the other), where it is of a ``kind``; (None, "") else."""
    if node is None or node.op_type != kind:
        return None, ""
    for one, other in (tuple(node.input), tuple(node.input)[::-1]):
        if other in wiring.constants and one in wiring.made_by:
            return wiring.made_by[one], other
    return None, ""


def _is_vector(name: str, wiring: Wiring) -> bool:
    return name in wiring.constants and len(wiring.constants[name].dims) == 1


def _centred(node: Any, wiring: Wiring) -> str | None:
    """The x of a node that computes x - mean(x) over the last axis."""
    if node is None or node.op_type != "Sub":
        return None
    x, mean = node.input
    return x if _mean_of(wiring.made_by.get(mean), wiring) == x else None


def _mean_of(node: Any, wiring: Wiring) -> str | None:
    """What a node is the mean of, over the last axis, which it keeps."""
    if node is None or node.op_type != "ReduceMean":
        return None
    keeps = integer_of(node, "keepdims", 1)
    return str(node.input[0]) if keeps and wiring.reduced_axes(node) == [-1] else None


def _squared_of(name: str, wiring: Wiring) -> str | None:
    """The x of a tensor that is (x - mean(x)) squared, by a power or by itself."""
    node = wiring.made_by.get(name)
    if node is None:
        return None
    if node.op_type == "Pow" and node.input[1] in wiring.constants:
        two = wiring.value(node.input[1])
        return _centred(wiring.made_by.get(node.input[0]), wiring) if np.all(two == 2) else None
    twice = node.op_type == "Mul" and node.input[0] == node.input[1]
    return _centred(wiring.made_by.get(node.input[0]), wiring) if twice else None
