"""What a float graph is made of, as far as quantization depends on it: weighted layers, attention, embeddings, norms."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmedge.graph.wiring import Wiring, integer_of

# What hands a tensor's values on, all of them or some, and computes none: a pair before it has the range of one behind it.
_MOVES = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "MaxPool")
_ACTIVATIONS = ("Relu", "Clip")
# Activations that runtimes compute behind a convolution, or fold into it, each as it likes.
_GATES = (
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Swish",
    "Mish",
    "Softplus",
    "Gelu",
    "Tanh",
    "Elu",
    "LeakyRelu",
    "PRelu",
)
_NORMS = ("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")
# What stands between the softmax of attention and the product with its values.
_BETWEEN = ("Where", "Cast", "Mul", "Dropout", "IsNaN", *_MOVES)


def has_attention(model: Any) -> bool:
    """Whether a graph has attention or layer norms, so that only its weighted layers bear 8 bits."""
    kinds = {node.op_type for node in model.graph.node}
    if kinds & set(_NORMS):
        return True
    return "Softmax" in kinds and bool(attention(Wiring(model)))


def attention(wiring: Wiring) -> list[Any]:
    """The products of attention with its values: each MatMul, or Einsum, that reads what a softmax gives."""
    found = []
    for softmax in (node for node in wiring.nodes if node.op_type == "Softmax"):
        ahead, seen = [softmax], {softmax.name}
        while ahead:
            for reader in wiring.readers.get(ahead.pop().output[0], []):
                if reader.op_type in ("MatMul", "Einsum") and not set(reader.input) & set(wiring.constants):
                    found.append(reader)
                elif reader.op_type in _BETWEEN and reader.name not in seen:
                    seen.add(reader.name)
                    ahead.append(reader)
    return found


def weighted(wiring: Wiring) -> list[Any]:
    """The nodes that multiply what they are given by stored float weights of two axes or more, in the graph's order.

    A product of two activations, as attention has two, is none; nor is a patch embedding, the convolution in front of a
    transformer: its share of the work is small, and its output, which nothing quantized reads, would have to be quantized.
    """
    found = [node for node in wiring.nodes if node.op_type in ("Conv", "Gemm", "MatMul") and _has_weights(node, wiring)]
    return [node for node in found if not _is_patches(node) or _reaches_convolution(node.output[0], wiring)]


def _has_weights(node: Any, wiring: Wiring) -> bool:
    from onnx import TensorProto

    stored = wiring.constants.get(node.input[1])
    plain = all(attribute.name != "transA" or not attribute.i for attribute in node.attribute)
    # NaN or infinity among weights has no code.
    return (
        plain
        and stored is not None
        and node.input[0] not in wiring.constants
        and stored.data_type == TensorProto.FLOAT
        and len(stored.dims) >= 2
        and (node.op_type != "MatMul" or len(stored.dims) == 2)
        and bool(np.isfinite(wiring.value(node.input[1])).all())
    )


def _is_patches(node: Any) -> bool:
    values = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    steps = values.get("strides", [])
    return node.op_type == "Conv" and bool(steps) and min(steps) > 1 and steps == values.get("kernel_shape")


def _reaches_convolution(tensor: str, wiring: Wiring) -> bool:
    """Whether a convolution reads a tensor, through what moves values, activations and sums."""
    ahead = [tensor]
    while ahead:
        for reader in wiring.readers.get(ahead.pop(), []):
            if reader.op_type == "Conv":
                return True
            if reader.op_type in (*_MOVES, *_ACTIVATIONS, "Add"):
                ahead += reader.output
    return False


def activated(node: Any, wiring: Wiring) -> str:
    """The tensor behind a layer and the ReLU or clip that alone reads it: a runtime folds both into one."""
    readers = wiring.readers.get(node.output[0], [])
    outputs = {value.name for value in wiring.model.graph.output}
    if len(readers) == 1 and readers[0].op_type in _ACTIVATIONS and node.output[0] not in outputs:
        return str(readers[0].output[0])
    return str(node.output[0])


def moved_from(tensor: str, wiring: Wiring) -> str:
    """The tensor whose values ``tensor`` has, in another order or shape."""
    node = wiring.made_by.get(tensor)
    while node is not None and node.op_type in _MOVES:
        tensor = node.input[0]
        node = wiring.made_by.get(tensor)
    return tensor


def sums(wiring: Wiring, quantized: Iterable[str]) -> list[Any]:
    """The additions of tensors that are all ``quantized``, or such sums: the shortcuts of a residual network."""
    known = set(quantized)
    found = []
    for node in wiring.nodes:
        if node.op_type == "Add" and set(node.input) <= known:
            found.append(node)
            known.add(node.output[0])
    return found


def gated(wiring: Wiring, convolutions: Iterable[Any]) -> bool:
    """Whether any of some ``convolutions`` is read by an activation that is none of those which every runtime folds into it."""
    return any(reader.op_type in _GATES for node in convolutions for reader in wiring.readers.get(node.output[0], []))


def gates(wiring: Wiring, convolved: Collection[str]) -> list[str]:
    """What sigmoids of ``convolved`` tensors give, by which these or others are multiplied: SiLU, squeeze-and-excitation."""
    sigmoids = (node for node in wiring.nodes if node.op_type == "Sigmoid" and node.input[0] in convolved)
    outputs = [str(node.output[0]) for node in sigmoids]
    return [name for name in outputs if {reader.op_type for reader in wiring.readers.get(name, [])} == {"Mul"}]


def embeddings(wiring: Wiring) -> list[Any]:
    """The Gathers of rows of a stored float table that nothing else reads: one that is tied to the output layer stays."""
    from onnx import TensorProto

    found = []
    for node in wiring.nodes:
        stored = wiring.constants.get(node.input[0]) if node.op_type == "Gather" else None
        if stored is None or stored.data_type != TensorProto.FLOAT or len(stored.dims) != 2:
            continue
        axis = integer_of(node, "axis", 0)
        alone = all(reader.op_type == "Gather" for reader in wiring.readers[node.input[0]])
        if axis == 0 and alone and node.input[1] not in wiring.constants:
            found.append(node)
    return found


def bias_of(node: Any, wiring: Wiring) -> tuple[Any, int] | None:
    """(the node, the place of its input) where a layer's stored bias is added; None where it has none.

    A MatMul's stands in the Add behind it.
    """
    if node.op_type != "MatMul":
        return (node, 2) if len(node.input) > 2 and node.input[2] in wiring.constants else None
    readers = wiring.readers.get(node.output[0], [])
    if len(readers) == 1 and readers[0].op_type == "Add":
        for place, name in enumerate(readers[0].input):
            if name in wiring.constants and len(wiring.constants[name].dims) == 1:
                return readers[0], place
    return None


def is_flat(node: Any, sizes: Mapping[str, Sequence[int]]) -> bool:
    """Whether a node is a linear layer of two axes. ``sizes``: those of the graph's tensors, where they are known."""
    return node.op_type == "Gemm" or (node.op_type == "MatMul" and len(sizes.get(node.output[0], ())) == 2)


def norms_of(wiring: Wiring, layers: Iterable[Any]) -> dict[str, list[Any]]:
    """{a layer norm's output: the linear layers that read it}: these can take up what its outputs are divided by."""
    linear = {node.name for node in layers if node.op_type != "Conv"}
    found = {}
    for node in wiring.nodes:
        if node.op_type in _NORMS and set(node.input[1:]) <= set(wiring.constants):
            readers = [each for each in wiring.readers.get(node.output[0], []) if each.name in linear]
            readers = [each for each in readers if each.input[0] == node.output[0]]
            if readers:
                found[str(node.output[0])] = readers
    return found


def outputs_first(node: Any) -> bool:
    """Whether a linear layer's weights are stored [outputs, inputs], as a Gemm says that turns them."""
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
