"""INT8 whose activations get their range while it runs: nothing is calibrated, and convolutions stay float."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError
from mmedge.graph import placement, rounding, structure
from mmedge.graph.wiring import Wiring, drop_unread, put_nodes


def int8(graph: Path, target: Path, powers: Mapping[str, np.ndarray] | None = None) -> int:
    """Write the form in which stored weights of MatMul and Gemm are int8, a scale an output channel, and embeddings too.

    ONNX Runtime fuses what quantizes, multiplies and scales into one kernel. ``powers``: see ``placement.Form``. Returns how many layers have it. Raises
    MmedgeError where the graph has none.
    """
    import onnx

    model = onnx.load(graph)
    wiring = Wiring(model)
    layers = {node.name for node in structure.weighted(wiring) if node.op_type != "Conv" and _is_plain(node)}
    if not layers:
        raise MmedgeError("no linear layer has stored weights, and ONNX Runtime's dynamic INT8 is of these alone")
    tables = {node.name for node in structure.embeddings(wiring)}
    stored: dict[str, Any] = {}
    nodes: list[Any] = []
    for node in wiring.nodes:
        if node.name in layers:
            made = _layer(node, wiring, (powers or {}).get(node.name))
        elif node.name in tables and placement.worth_coding(wiring.value(node.input[0])):
            made = placement.looked_up(node, wiring.value(node.input[0]))
        else:
            made = [], [node]
        stored |= {tensor.name: tensor for tensor in made[0]}
        known = {each.output[0] for each in nodes}
        nodes += [each for each in made[1] if each.output[0] not in known]  # an input that several layers have
    put_nodes(model.graph, nodes)
    del model.graph.value_info[:]
    model.graph.initializer.extend(stored.values())
    drop_unread(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
    return len(layers)


def _is_plain(node: Any) -> bool:
    values = {attribute.name: attribute.f for attribute in node.attribute if attribute.name in ("alpha", "beta")}
    return all(value == 1 for value in values.values())


def _layer(node: Any, wiring: Wiring, power: np.ndarray | None) -> tuple[list[Any], list[Any]]:
    """(stored tensors, nodes) of a layer, in the pattern that ONNX Runtime fuses."""
    from onnx import TensorProto, helper, numpy_helper

    weight = wiring.value(node.input[1])
    weight = weight.T if placement.output_axis(node, weight) == 0 else weight
    codes, scale = placement.coded(weight, 1, 127)
    codes = codes if power is None else rounding.codes_of(weight, 1, scale, power, 127)
    name, x, bias = f"{node.input[1]}.{node.name}", node.input[0], list(node.input)[2:]
    parts = {"q": np.ascontiguousarray(codes), "scale": scale, "zero": np.zeros(scale.shape, np.int8)}
    quantized = [f"{x}.{part}" for part in ("dynamic", "dynamic_scale", "dynamic_zero")]
    output = f"{node.output[0]}.product" if bias else node.output[0]
    made = [
        helper.make_node("DynamicQuantizeLinear", [x], quantized, f"{x}.dynamic"),
        helper.make_node(
            "MatMulInteger", [quantized[0], f"{name}.q", quantized[2], f"{name}.zero"], [f"{name}.sum"], node.name
        ),
        helper.make_node("Cast", [f"{name}.sum"], [f"{name}.float"], f"{name}.float", to=TensorProto.FLOAT),
        helper.make_node("Mul", [quantized[1], f"{name}.scale"], [f"{name}.by"], f"{name}.by"),
        helper.make_node("Mul", [f"{name}.float", f"{name}.by"], [output], f"{name}.scaled"),
    ]
    if bias:
        made.append(helper.make_node("Add", [output, *bias], [node.output[0]], f"{name}.bias"))
    return [numpy_helper.from_array(value, f"{name}.{part}") for part, value in parts.items()], made
