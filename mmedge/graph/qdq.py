"""Quantized layers of a Q/DQ graph: which there are, taking some of them back to float, and which a runtime fuses.

A pair is a QuantizeLinear and the DequantizeLinear behind it. A layer is a node that reads dequantized tensors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.backends.branches import branch_of_nodes
from mmedge.backends.onnxfile import Node
from mmedge.errors import UsageError
from mmedge.graph.wiring import DEQUANTIZE, PASSING, QUANTIZE, Wiring, drop_unread
from mmedge.report.schema import LayersRecord

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Of what passes values on, those through which ONNX Runtime sees the whole quantized tensor.
_WHOLE = PASSING[:6]
# What placement and smoothing add to the name of a layer's weights, and, with the layer's own, to that of its bias.
CODES, SMOOTHED, CORRECTED = ".codes", ".smooth.", ".corrected."
# What stands between the names of layers in that of the one that they have become, and before the layer's own in its weights'.
AND, JOINED = "+", ".joined."
# Folded into the quantizer behind it: always the first, and the second where its bounds are those of the codes.
_FOLDED = ("Relu", "Clip")


@dataclass(frozen=True)
class QuantizedLayer:
    """A quantized layer. ``label``: its weight's place in the model, where it has one, for people; ``weights``: how many."""

    name: str
    kind: str
    label: str
    branch: str
    weights: int


def layers(model: Any) -> list[QuantizedLayer]:
    """The quantized layers of a loaded model, in the graph's order."""
    wiring = Wiring(model)
    branches = branches_of(model)
    found = []
    for node in wiring.nodes:
        if node.op_type in (QUANTIZE, DEQUANTIZE, "Shape", *PASSING):
            continue
        read = [name for name in node.input if wiring.dequantized(name) is not None]
        if not read:
            continue
        weight = wiring.weight(node)
        label, size = node.name, 0
        if weight is not None:
            stored = wiring.made_by.get(weight[1].input[0])
            source = stored.input[0] if stored is not None else weight[1].input[0]
            label, size = label_of(source, node, wiring), int(np.prod(wiring.constants[source].dims))
        found.append(QuantizedLayer(node.name, node.op_type, label, branches[node.name], size))
    often = Counter(layer.label for layer in found)  # weights that several layers share
    return [
        replace(layer, label=f"{layer.label} ({layer.name})") if often[layer.label] > 1 else layer for layer in found
    ]


def branches_of(model: Any) -> dict[str, str]:
    """{node: the one modality that it serves, or ``fusion``}."""
    nodes = [Node(node.name, node.op_type, tuple(node.input), tuple(node.output)) for node in model.graph.node]
    constant = {tensor.name for tensor in model.graph.initializer}
    return branch_of_nodes(nodes, [value.name for value in model.graph.input if value.name not in constant])


def label_of(weight: str, node: Any, wiring: Wiring) -> str:
    """``encoders.audio.features.0`` of ``q_output_module.encoders.audio.features.0.weight_1``.

    Weights that the exporter transposed have lost their name; the bias that is added behind has it still.
    """
    if weight.startswith("q_output_"):  # NNCF numbers them
        weight = re.sub(r"_\d+$", "", weight.removeprefix("q_output_"))
    named_ = [weight, *list(node.input)[2:]]
    for reader in wiring.readers.get(node.output[0], []):
        named_ += [name for name in reader.input if reader.op_type == "Add" and name in wiring.constants]
    for added in (CORRECTED, JOINED, SMOOTHED):
        named_ = [name.partition(added)[0] for name in named_]
    best = next((name for name in (each.removesuffix(CODES) for each in named_) if "." in name), named_[0])
    return best.removeprefix("module.").removesuffix(".weight").removesuffix(".bias")


def _known_as(layer: QuantizedLayer) -> list[str]:
    """A layer's label as the graph has it, and as a user's own module does, which is wrapped; of a joined one each part's, too."""
    labels = dict.fromkeys([layer.label, *layer.label.split(AND)])
    return [name for label in labels for name in (label, label.removeprefix("inner."))]


def named(wanted: Sequence[str], known: Iterable[QuantizedLayer], *, where: str) -> list[str]:
    """Names of the layers that a recipe names: by node, by label, by the first parts of a label, or by branch.

    Raises UsageError for one that does not exist, with the close ones.
    """
    all_layers = list(known)
    found: list[str] = []
    for name in wanted:
        hits = [
            layer.name
            for layer in all_layers
            if name in (layer.name, layer.branch, *_known_as(layer))
            or any(label.startswith(f"{name}.") for label in _known_as(layer))
        ]
        if not hits:
            names = dict.fromkeys(name for layer in all_layers for name in (layer.label, layer.name))
            close = get_close_matches(name, names, n=5, cutoff=0.5)
            listed = ", ".join(close or [layer.label for layer in all_layers])
            raise UsageError(
                f"{where}: no quantized layer {name!r}; {'close ones are' if close else 'there are'} {listed}"
            )
        found += [hit for hit in hits if hit not in found]
    return found


def restored(model: Any, reference: Any, names: Collection[str]) -> Any:
    """A copy of a Q/DQ model in which the layers ``names`` compute in float, with the weights of ``reference`` (FP32).

    The pair before such a layer goes too, unless the quantized layer in front of it needs it: a convolution runs in 8
    bits only where its output is quantized. Nothing is calibrated again.
    """
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    wiring, original = Wiring(changed), {node.name: node for node in reference.graph.node}
    values = {tensor.name: tensor for tensor in reference.graph.initializer}
    quantized = {layer.name for layer in layers(model)} - set(names)
    nodes: list[Any] = []
    moved: dict[str, str] = {}
    for node in wiring.nodes:
        nodes.append(node)
        # The shape of a tensor is the same before its pair.
        if node.op_type in (QUANTIZE, DEQUANTIZE) or (node.name not in names and node.op_type != "Shape"):
            continue
        added: list[Any] = []
        weight = wiring.weight(node)
        for index, name in enumerate(node.input):
            if weight is None or index != weight[0]:
                node.input[index] = _float_of(name, wiring, quantized, moved, added)
        nodes[-1:-1] = added
        if weight is not None:
            _restore_weights(changed, node, weight, wiring, original, values)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    drop_unread(changed)
    onnx.checker.check_model(changed)
    return changed


def _float_of(name: str, wiring: Wiring, quantized: set[str], moved: dict[str, str], added: list[Any]) -> str:
    """The tensor that holds the values of ``name`` before they were quantized; ``name`` where the pair must stay."""
    import onnx

    node = wiring.made_by.get(name)
    if node is None or name in moved:
        return moved.get(name, name)
    if node.op_type == DEQUANTIZE:
        quantize = wiring.made_by.get(node.input[0])
        if quantize is None or quantize.op_type != QUANTIZE or _needed(quantize.input[0], wiring, quantized):
            return name
        source: str = quantize.input[0]
        return source
    if node.op_type in PASSING and len(node.output) == 1:
        inputs = [_float_of(i, wiring, quantized, moved, added) for i in wiring.moved(node)]
        if inputs != wiring.moved(node):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name, copy.output[0] = f"{node.name}.float", f"{name}.float"
            copy.input[: len(inputs)] = inputs
            added.append(copy)
            moved[name] = copy.output[0]
            return moved[name]
    return name


def _needed(tensor: str, wiring: Wiring, quantized: set[str]) -> bool:
    """Whether the quantizer of ``tensor`` makes the layer in front of it run in 8 bits."""
    node = wiring.made_by.get(tensor)
    while node is not None and node.op_type in _FOLDED:
        node = wiring.made_by.get(node.input[0])
    return node is not None and node.name in quantized and node.op_type != "MatMul"


def _restore_weights(
    model: Any,
    node: NodeProto,
    weight: tuple[int, NodeProto],
    wiring: Wiring,
    original: Mapping[str, NodeProto],
    values: Mapping[str, TensorProto],
) -> None:
    from onnx import numpy_helper

    index, dequantize = weight
    stored = wiring.stored_weight(dequantize)
    scale = float(np.max(np.abs(wiring.value(dequantize.input[1]))))
    ours: dict[int, np.ndarray] = {index: stored}
    source = original.get(node.name)
    if source is not None and index < len(source.input) and source.input[index] in values:
        exact = numpy_helper.to_array(values[source.input[index]])
        # Where the quantizer smoothed by itself the FP32 graph's weights do not fit. Codes that are named after them do,
        # however far weights that were rounded together have moved.
        coded = dequantize.input[0] == f"{source.input[index]}{CODES}"
        if exact.shape == stored.shape and (coded or float(np.abs(exact - stored).max(initial=0)) <= 2 * scale):
            ours[index] = exact
            for place in range(2, len(node.input)):  # a bias that was corrected for the error of quantization
                if place < len(source.input) and source.input[place] in values:
                    ours[place] = numpy_helper.to_array(values[source.input[place]])
            _restore_added_bias(model, node, wiring, original, values)
    for place, value in ours.items():
        node.input[place] = f"{node.name}.float.{place}"
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), node.input[place]))


def _restore_added_bias(
    model: Any,
    node: NodeProto,
    wiring: Wiring,
    original: Mapping[str, NodeProto],
    values: Mapping[str, TensorProto],
) -> None:
    """The bias of a MatMul stands in an Add behind it."""
    readers = wiring.readers.get(node.output[0], [])
    if node.op_type != "MatMul" or len(readers) != 1 or readers[0].op_type != "Add":
        return
    add, source = readers[0], original.get(readers[0].name)
    for place, name in enumerate(add.input):
        if source is not None and name in wiring.constants and source.input[place] in values:
            exact = values[source.input[place]]
            if np.prod(exact.dims) == np.prod(wiring.constants[name].dims):
                copy = type(exact)()
                copy.CopyFrom(exact)
                copy.name = add.input[place] = f"{add.name}.float.{place}"
                model.graph.initializer.append(copy)


def prove(graph: Path, optimized: Any) -> LayersRecord:
    """Compare a Q/DQ graph with the graph that ONNX Runtime optimised it to, a loaded model.

    ``int8`` of ``asked`` layers run in 8 bits; ``float_layers``: {label: why} of the others, ``unexplained`` those
    without a reason.
    A layer runs in float where its weights are still dequantized in the optimised graph; ``open_pairs`` are those of
    activations that no kernel took up.
    """
    import onnx

    model = onnx.load(graph)
    wiring = Wiring(model)
    open_weights = {node.input[0] for node in optimized.graph.node if node.op_type == DEQUANTIZE}
    nodes = {node.name: node for node in wiring.nodes}
    weighted = [layer for layer in layers(model) if layer.kind in WEIGHTED and layer.weights]
    floating: dict[str, str] = {}
    unexplained = []
    for layer in weighted:
        weight = wiring.weight(nodes[layer.name])
        if weight is not None and weight[1].input[0] in open_weights:
            reason = _why_float(nodes[layer.name], weight[0], wiring)
            floating[layer.label] = reason or "no reason is known"
            if reason is None:
                unexplained.append(layer.label)
    return LayersRecord(
        asked=len(weighted),
        int8=len(weighted) - len(floating),
        float_layers=floating,
        unexplained=unexplained,
        open_pairs=_open_pairs(optimized),
    )


def _open_pairs(optimized: Any) -> list[str]:
    """The tensors that an optimised graph rounds to codes and nothing else."""
    readers: dict[str, set[str]] = {}
    for node in optimized.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    quantizers = [node for node in optimized.graph.node if node.op_type == QUANTIZE]
    return [node.input[0] for node in quantizers if readers.get(node.output[0]) == {DEQUANTIZE}]


def _why_float(node: Any, weight: int, wiring: Wiring) -> str | None:
    """Why ONNX Runtime cannot run a quantized layer in 8 bits, as far as its form tells."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return f"ONNX Runtime has no 8-bit {node.op_type}"
    data = wiring.made_by.get(node.input[1 - weight] if node.op_type == "MatMul" else node.input[0])
    while data is not None and data.op_type in _WHOLE:
        data = wiring.made_by.get(data.input[0])
    if data is None or data.op_type != DEQUANTIZE:
        if data is not None and data.op_type == "Concat":
            return "its input joins tensors of several scales"
        return "its input is not quantized, or not as a whole"
    after = wiring.readers.get(node.output[0], [])
    clipped = len(after) == 1 and after[0].op_type == "Clip"
    while len(after) == 1 and after[0].op_type in (*_FOLDED, "Add" if node.op_type == "MatMul" else "Relu"):
        if after[0].op_type == "Add" and not any(wiring.is_constant(name) for name in after[0].input):
            return "another branch is added to its output before it is quantized"
        after = wiring.readers.get(after[0].output[0], [])
    if not after or any(reader.op_type != QUANTIZE for reader in after):
        return "its output stays float"
    return "its Clip is not folded into the quantizer behind it" if clipped else None
