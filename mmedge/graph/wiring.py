"""A graph's tensors: who makes and who reads each, the branches and bodies inside of nodes, and what nothing needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# What moves or selects values without computing new ones: codes pass through, and quantizers are placed before it.
PASSING = (
    *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"),
    *("Slice", "Split", "Gather", "MaxPool", "Concat"),
)


class Wiring:
    """Who makes and who reads each tensor of a model, and its constants. Valid until the model is changed."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.made_by = {name: node for node in self.nodes for name in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in [*node.input, *(read_by(node) - set(node.input))]:
                self.readers.setdefault(name, []).append(node)

    def value(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        array: np.ndarray = numpy_helper.to_array(self.constants[name])
        return array

    def dequantized(self, tensor: str) -> Any:
        """The DequantizeLinear that a tensor comes from, through what only moves values; None where there is none."""
        node = self.made_by.get(tensor)
        while node is not None and node.op_type in PASSING:
            node = next((self.made_by.get(i) for i in self.moved(node) if self.dequantized(i) is not None), None)
        return node if node is not None and node.op_type == DEQUANTIZE else None

    @staticmethod
    def moved(node: Any) -> list[str]:
        """The inputs of a passing node whose values it moves, without its shapes and axes."""
        return list(node.input) if node.op_type == "Concat" else list(node.input)[:1]

    def weight(self, node: Any) -> tuple[int, Any] | None:
        """(index of the input, DequantizeLinear) of a node's constant weights."""
        for index, name in enumerate(node.input[:2]):
            made = self.made_by.get(name)
            if made is not None and made.op_type == DEQUANTIZE and self.is_constant(made.input[0]):
                return index, made
        return None

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor is stored, or quantized from a stored one."""
        made = self.made_by.get(tensor)
        return tensor in self.constants or (
            made is not None and made.op_type == QUANTIZE and made.input[0] in self.constants
        )

    def reduced_axes(self, node: Any) -> list[int] | None:
        """The axes that a reduction names, in an attribute or stored; None where it names none, or computes them."""
        named = next((list(each.ints) for each in node.attribute if each.name == "axes"), None)
        if named is None and len(node.input) > 1 and node.input[1] in self.constants:
            return [int(axis) for axis in self.value(node.input[1]).ravel()]
        return named

    def stored_weight(self, dequantize: Any) -> np.ndarray:
        """The float values that a constant DequantizeLinear gives."""
        from onnx import reference

        names = list(dequantize.input)
        quantize = self.made_by.get(names[0])
        if quantize is not None:
            return self.value(quantize.input[0])
        (value,) = reference.ReferenceEvaluator(dequantize).run(None, {name: self.value(name) for name in names})
        return np.asarray(value, np.float32)


def graphs_of(node: Any) -> list[Any]:
    """The branches and bodies inside a node."""
    return [
        each for attribute in node.attribute for each in (attribute.g, *attribute.graphs) if each.node or each.output
    ]


def read_by(node: Any) -> set[str]:
    """The tensors around a node that it reads, by the branches and bodies in it too: these see what is around them."""
    found = set(node.input)
    for graph in graphs_of(node):
        inner = {value.name for value in graph.output}.union(*(read_by(each) for each in graph.node))
        own = [*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)]
        found |= inner.difference(own, *(each.output for each in graph.node))
    return found


def renamed(graph: Any, names: Mapping[str, str]) -> None:
    """Read other tensors, {old: new}, in a graph and in the branches and bodies inside it, which see what is around them."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for inner in graphs_of(node):
            renamed(inner, names)


def put_nodes(graph: Any, nodes: Iterable[Any]) -> None:
    """Let a graph have these nodes, its own among them, in place."""
    # What is taken out of a message is lost.
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def integer_of(node: Any, name: str, otherwise: int) -> int:
    """An attribute of a node; ``otherwise`` where it has none of that name."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), otherwise)


def opset_of(model: Any, otherwise: int) -> int:
    """The opset of ONNX's own operators; ``otherwise`` where the model names none."""
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), otherwise)


def drop_unread(model: Any) -> None:
    """Remove nodes and constants that no output needs."""
    needed, kept = {value.name for value in model.graph.output}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(read_by(node))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(reversed(kept))
    stored = model.graph.initializer
    for place in reversed(range(len(stored))):  # one by one: a new list would be a copy of all weights
        if stored[place].name not in needed:
            del stored[place]
