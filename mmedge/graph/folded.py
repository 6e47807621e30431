"""Constant factors behind linear layers, which their weights take up."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmedge.graph import structure
from mmedge.graph.placement import output_axis
from mmedge.graph.wiring import Wiring


def fold(model: Any) -> int:
    """Multiply weights and biases of linear layers by the factor, one or one an output, that alone reads what they give, in place;
    returns how many went.

    OpenVINO 2026.4 answers wrongly where one stands between a layer of two axes and codes; elsewhere it is a kernel less.
    """
    from onnx import numpy_helper

    wiring, count = Wiring(model), 0
    given = {value.name for value in model.graph.output}
    for layer in structure.weighted(wiring):
        weight = layer.input[1]
        holder, place = structure.bias_of(layer, wiring) or (layer, 2)
        own = [weight, *(name for name in holder.input[place : place + 1] if name)]
        if layer.op_type == "Conv" or any(
            wiring.readers[n] != [r] or n not in wiring.constants for n, r in zip(own, (layer, holder))
        ):
            continue
        readers = wiring.readers.get(holder.output[0], [])
        factor = _factor(readers[0], holder.output[0], wiring) if len(readers) == 1 else None
        axis = output_axis(layer, wiring.value(weight))
        if factor is None or factor.size not in (1, wiring.constants[weight].dims[axis]) or holder.output[0] in given:
            continue
        for name in own:
            value = wiring.value(name)
            by = factor[:, None] if name == weight and axis == 0 and factor.ndim else factor
            wiring.constants[name].CopyFrom(numpy_helper.from_array(np.asarray(value * by, np.float32), name))
        holder.output[0] = readers[0].output[0]
        model.graph.node.remove(readers[0])
        count += 1
    return count + fold(model) if count else 0  # of what stands behind


def _factor(node: Any, tensor: str, wiring: Wiring) -> np.ndarray | None:
    """What a node multiplies a tensor by, of one axis at most; None where it does something else."""
    if node.op_type == "Neg":
        return np.asarray(-1, np.float32)
    other = next((name for name in node.input if name != tensor), tensor)
    if other not in wiring.constants or (node.op_type, list(node.input).index(tensor)) not in (
        ("Mul", 0),
        ("Mul", 1),
        ("Div", 0),
    ):
        return None
    value = wiring.value(other)
    with np.errstate(divide="ignore"):
        factor = np.asarray(1 / value if node.op_type == "Div" else value)
    return factor if factor.ndim < 2 and np.isfinite(factor).all() and factor.all() else None
