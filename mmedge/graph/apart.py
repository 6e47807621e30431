"""Nodes that OpenVINO computes wrongly together, held apart by one that changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmedge.graph import structure
from mmedge.graph.simpler import sizes_of
from mmedge.graph.wiring import PASSING, QUANTIZE, Wiring, integer_of, put_nodes

# Of one tensor and stored values: what multiplies, and what else OpenVINO computes in one kernel with it.
_SCALING = ("Mul", "Div", "Neg", "BatchNormalization")
_BESIDE = (*_SCALING, "Relu", "Clip", "Add", "Sub", *PASSING)
_LOWEST = "lowest.apart"


def hold_apart(model: Any) -> int:
    """Put the larger of each value and the lowest number, in place, between what OpenVINO 2026.4 joins and answers wrongly;
    returns how often.

    1. The codes of what a linear layer of two axes gives, multiplied by stored numbers or a batch norm.
    2. Codes and the mean over windows that count what is put around an image: around it were not the codes of 0.
    """
    from onnx import helper, numpy_helper

    wiring, sizes, held, nodes = Wiring(model), sizes_of(model), dict[str, str](), list[Any]()
    for node in wiring.nodes:
        if (node.op_type == QUANTIZE and _is_scaled(node, wiring, sizes)) or _counts_padding(node, wiring):
            tensor = node.input[0]
            if tensor not in held:
                held[tensor] = f"{tensor}.apart"
                nodes.append(helper.make_node("Max", [tensor, _LOWEST], [held[tensor]], held[tensor]))
            node.input[0] = held[tensor]
        nodes.append(node)
    if held:
        put_nodes(model.graph, nodes)
        lowest = np.full(1, np.finfo(np.float32).min, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(lowest, _LOWEST))
    return len(held)


def _is_scaled(quantize: Any, wiring: Wiring, sizes: dict[str, list[int]]) -> bool:
    scaling, node = False, wiring.made_by.get(quantize.input[0])
    while node is not None and node.op_type in _BESIDE:
        inner = [name for name in node.input if name and name not in wiring.constants]
        if len(inner) != 1:
            return False
        scaling |= node.op_type in _SCALING
        node = wiring.made_by.get(inner[0])
    if node is None or not scaling or wiring.weight(node) is None:
        return False
    return structure.is_flat(node, sizes) and _is_float(quantize, wiring)


def _counts_padding(node: Any, wiring: Wiring) -> bool:
    """Whether a node takes the mean of codes and of what is around them, which is right where the code of 0 is 0."""
    if node.op_type != "AveragePool" or not integer_of(node, "count_include_pad", 0):
        return False
    values = {each.name: each for each in node.attribute}
    same = "auto_pad" in values and values["auto_pad"].s.startswith(b"SAME")
    padded = same or ("pads" in values and any(values["pads"].ints))
    pair = wiring.dequantized(node.input[0]) if padded else None
    if pair is None or len(pair.input) < 3 or pair.input[2] not in wiring.constants:
        return False
    zero = wiring.value(pair.input[2])
    return _is_float(pair, wiring) and not (zero.dtype == np.uint8 and not zero.any())


def _is_float(pair: Any, wiring: Wiring) -> bool:
    from onnx import TensorProto

    stored = wiring.constants.get(pair.input[1])
    return stored is not None and stored.data_type == TensorProto.FLOAT
