"""INT8 of a graph with attention: weighted layers and embeddings in 8 bits, what is between them in float.

Softmax, norms, activations other than ReLU, masks and sums of a transformer lose more by 8 bits than they gain; the two
products of attention are a small share of its work. Where convolutions follow each other their outputs and sums have codes, too,
since runtimes run a convolution in 8 bits only so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError
from mmedge.graph import ranges, rounding, structure
from mmedge.graph.qdq import CODES, CORRECTED
from mmedge.graph.ranges import Choice, Values
from mmedge.graph.simpler import sizes_of
from mmedge.graph.wiring import Wiring, drop_unread, put_nodes

# Tables of fewer values stay as they are: the nodes would cost more than they save.
_WORTH = 4096


@dataclass(frozen=True)
class Form:
    """How codes are chosen. ``choice``: of an activation's range; ``most``: the largest code of a weight, up to 127;
    ``powers``: {layer: what ``rounding.powers`` gives} of those whose weights are not rounded each to the nearest code but so
    that the outputs are kept; ``gates``: whether the sigmoids of what convolutions give have codes, too."""

    choice: Choice = "error"
    most: int = 127
    powers: Mapping[str, np.ndarray] = field(default_factory=dict)
    gates: bool = False


def int8(
    graph: Path,
    target: Path,
    inputs: Sequence[Mapping[str, np.ndarray]],
    form: Form,
    kinds: Sequence[str] = ("Conv", "Gemm", "MatMul"),
) -> None:
    """Write the INT8 form of a float graph as Q/DQ, calibrated on ``inputs``: {input: [1, *shape]} each.

    ``kinds``: of the layers that are quantized. Raises MmedgeError where it has no layer that 8 bits are for.
    """
    import onnx

    model = onnx.load(graph)
    wiring = Wiring(model)
    layers = [node for node in structure.weighted(wiring) if node.op_type in kinds]
    if not layers:
        raise MmedgeError("no layer has stored weights that 8 bits could hold")
    written = _Written(model, wiring, layers, form.gates)
    written.write(ranges.collected(model, written.channels(), inputs), form)
    drop_unread(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


class _Written:
    """The places of a graph's codes, and writing them."""

    def __init__(self, model: Any, wiring: Wiring, layers: Sequence[Any], gates: bool) -> None:
        self.model, self.wiring, self.layers = model, wiring, {node.name: node for node in layers}
        self.sizes = sizes_of(model)
        convolved = [structure.activated(node, wiring) for node in layers if node.op_type == "Conv"]
        convolved += structure.gates(wiring, convolved) if gates else []
        inner = [*convolved, *(node.input[0] for node in layers)]
        # What a runtime computes in codes, so that all that reads it reads codes.
        self.made = dict.fromkeys([*convolved, *(node.output[0] for node in structure.sums(wiring, convolved))])
        self.tensors = list(dict.fromkeys([*self.made, *inner]))

    def channels(self) -> dict[str, int]:
        """{tensor that gets codes: its axis of channels}."""
        images = {node.input[0] for node in self.layers.values() if node.op_type == "Conv"}
        return {name: 1 if name in images or name in self.made else -1 for name in self.tensors}

    def write(self, values: Mapping[str, Values], form: Form) -> None:
        """Put the pairs, the codes of weights and those of embeddings into the model."""
        self.stored: list[Any] = []
        self.nodes: list[Any] = []
        tables = {node.name for node in structure.embeddings(self.wiring)}
        for name in (value.name for value in self.model.graph.input if value.name in self.tensors):
            self._pair(name, values, form)
        for node in self.model.graph.node:
            if node.name in self.layers:
                self._weights(node, values[node.input[0]].mean, form)
            elif node.name in tables:
                self._table(node)
            self._reads_codes(node)
            if node.name not in tables:
                self.nodes.append(node)
            for name in node.output:
                if name in self.tensors:
                    self._pair(name, values, form)
        put_nodes(self.model.graph, self.nodes)
        del self.model.graph.value_info[:]
        self.model.graph.initializer.extend(self.stored)

    def _reads_codes(self, node: Any) -> None:
        """What reads codes where there are some: a layer its input, and each reader what a convolution or a sum gives."""
        for place, name in enumerate(node.input):
            is_input = place == 0 and node.name in self.layers
            if name in self.tensors and (is_input or name in self.made):
                node.input[place] = f"{name}.dq"

    def _pair(self, name: str, values: Mapping[str, Values], form: Form) -> None:
        source = structure.moved_from(name, self.wiring)
        # What only moves codes must not change them.
        low, high = values[source if source in self.made else name].range(form.choice)
        scale, zero = ranges.codes(low, high)
        self._store(f"{name}.scale", scale)
        self._store(f"{name}.zero", zero)
        self._node("QuantizeLinear", [name, f"{name}.scale", f"{name}.zero"], f"{name}.q")
        self._node("DequantizeLinear", [f"{name}.q", f"{name}.scale", f"{name}.zero"], f"{name}.dq")

    def _weights(self, node: Any, mean: np.ndarray, form: Form) -> None:
        """Codes with a scale an output channel, and the bias set right for what they change on the mean input."""
        weight, name, made = self.wiring.value(node.input[1]), node.input[1], f"{node.name}.weight.dq"
        axis = output_axis(node, weight)
        codes, scale = coded(weight, axis, form.most)
        if node.name in form.powers:
            codes = rounding.codes_of(weight, axis, scale, form.powers[node.name], form.most)
        off = np.moveaxis(codes * _along(scale, axis, weight.ndim) - weight, axis, 0)  # [outputs, ...]
        self._store(f"{name}{CODES}", codes)
        self._store(f"{name}.scale", scale)
        self._store(f"{name}.zero", np.zeros(scale.shape, np.int8))
        self._node("DequantizeLinear", [f"{name}{part}" for part in (CODES, ".scale", ".zero")], made, axis=axis)
        node.input[1] = made
        self._corrected(node, off, mean)

    def _corrected(self, node: Any, off: np.ndarray, mean: np.ndarray) -> None:
        """Take what the codes' error ``off``, [outputs, inputs, ...], adds on the mean input from the bias (Nagel et al. 2019)."""
        place = structure.bias_of(node, self.wiring)
        rows = off.reshape(*off.shape[:2], -1).sum(axis=2, dtype=np.float64)  # [outputs, inputs of a group]
        groups = mean.size // rows.shape[1] if mean.size % rows.shape[1] == 0 else 0
        if place is None or not groups or rows.shape[0] % groups:
            return
        by_group = mean.reshape(groups, 1, -1)
        shift = (rows.reshape(groups, -1, rows.shape[1]) * by_group).sum(axis=2).ravel()
        holder, index = place
        bias = self.wiring.value(holder.input[index])
        if bias.size == shift.size and np.isfinite(shift).all():
            corrected = (bias - shift.reshape(bias.shape)).astype(np.float32)
            # Of known sizes, ONNX Runtime makes a Gemm of a MatMul and a sum with one axis, and a Reshape between it and its
            # codes, which it then does not see.
            known = all(self.sizes.get(node.input[0], [0]))
            corrected = corrected[None] if node.op_type == "MatMul" and known and bias.ndim == 1 else corrected
            holder.input[index] = self._store(f"{holder.input[index]}{CORRECTED}{node.name}", corrected)

    def _table(self, node: Any) -> None:
        value = self.wiring.value(node.input[0])
        tensors, lookups = looked_up(node, value) if worth_coding(value) else ([], [node])
        known = {tensor.name for tensor in self.stored}
        self.stored += [tensor for tensor in tensors if tensor.name not in known]
        self.nodes += lookups

    def _store(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        if not any(tensor.name == name for tensor in self.stored):
            self.stored.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))


def worth_coding(table: np.ndarray) -> bool:
    """Whether an embedding is large enough, and finite."""
    return table.size >= _WORTH and bool(np.isfinite(table).all())


def looked_up(node: Any, table: np.ndarray) -> tuple[list[Any], list[Any]]:
    """(stored tensors, nodes) of an embedding whose rows have 8 bits and a scale each; nothing else of it is made float.

    A DequantizeLinear before the Gather would make the whole table float in each run.
    """
    from onnx import TensorProto, helper, numpy_helper

    name, index, output = node.input[0], node.input[1], node.output[0]
    codes, scale = coded(table, 0, 127)
    tensors = [
        numpy_helper.from_array(codes, f"{name}.rows"),
        numpy_helper.from_array(scale[:, None], f"{name}.scales"),
    ]
    gathered = [
        helper.make_node("Gather", [f"{name}.{part}", index], [f"{output}.{part}"], f"{output}.{part}", axis=0)
        for part in ("rows", "scales")
    ]
    cast = helper.make_node("Cast", [f"{output}.rows"], [f"{output}.cast"], f"{output}.cast", to=TensorProto.FLOAT)
    scaled = helper.make_node("Mul", [f"{output}.cast", f"{output}.scales"], [output], output)
    return tensors, [*gathered, cast, scaled]


def output_axis(node: Any, weight: np.ndarray) -> int:
    """The axis of a layer's weights that has a scale each: its output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if structure.outputs_first(node) else weight.ndim - 1


def coded(weight: np.ndarray, axis: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(int8 codes from -``most`` to ``most``, float32 scales of the channels of ``axis``)."""
    others = tuple(each for each in range(weight.ndim) if each != axis)
    scale = np.maximum(np.abs(weight).max(axis=others), 1e-10).astype(np.float32) / np.float32(most)
    codes = np.clip(np.round(weight / _along(scale, axis, weight.ndim)), -most, most).astype(np.int8)
    return codes, scale


def _along(scale: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return scale.reshape([-1 if each == axis else 1 for each in range(rank)])
