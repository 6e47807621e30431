"""A user's ONNX file in the one form that candidates are made of: one file of float32, its nodes named, its constants folded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.errors import MmedgeError, UsageError, first_line
from mmedge.graph.precision import optimized
from mmedge.graph.qdq import WEIGHTED, graphs_of

# From here on a quantizer has a scale for each channel, and all that quantization adds exists.
_OPSET = 13
# Quantized operators, of this or another tool's making; a quantizer of activations cannot start from them.
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "MatMulNBits")  # fmt: skip
# How ONNX Runtime begins the names of folded weights and biases.
_FOLDED = re.compile(r"^(?:Conv[A-Za-z]*Fusion_[WB]_)+")
# Protobuf holds no more in one message.
_LARGEST = 2**31 - 1
# Of the largest output: what another order of the same sums may change, and a wrongly converted operator does not keep to.
_TOLERANCE = 1e-3


def tidied(source: Path, target: Path, example: Mapping[str, np.ndarray]) -> list[str]:
    """Write ``source`` as one file that quantization takes, and return notes on what was changed for it.

    Weights that lie beside it are taken in, nodes without a name get one, float16 becomes float32 inside (inputs and
    outputs keep their types), an opset before 13 is converted, and what ONNX Runtime folds before anything else is
    folded: constants, and a BatchNormalization into its Conv, which otherwise keeps the Conv from running in 8 bits.
    Conversion and folding are taken where they answer ``example``, {input: array}, as before. Raises UsageError for a
    graph that is quantized already, MmedgeError for one of more than 2 GB.
    """
    import onnx
    from onnx import inliner

    model = onnx.load(source)
    found = sorted({node.op_type for node in model.graph.node if _is_quantized(node.op_type)})
    if found:
        raise UsageError(
            f"the model is quantized already: it has {', '.join(found)}",
            where=str(source),
            todo="give the float model that it was made of",
        )
    if model.ByteSize() > _LARGEST:
        raise MmedgeError(
            f"the model has {model.ByteSize() / 2**30:.1f} GiB with its weights; an ONNX file in one piece holds 2 GiB",
            where=str(source),
            todo="quantize its parts, one encoder at a time",
        )
    if model.functions:
        model = inliner.inline_local_functions(model)
    _inputs_without_weights(model)
    notes = _widened(model)
    model, said = _modern(model, example)
    _named(model.graph)
    onnx.save(model, target)
    folded = _folded(target, model, example)
    if folded is not None:
        model = folded
        onnx.save(model, target)
    return notes + said + _inside(model.graph)


def _is_quantized(kind: str) -> bool:
    return kind in _QUANTIZED or kind.startswith(("QLinear", "QGemm", "QAttention"))


def _inside(graph: Any) -> list[str]:
    """A note on the layers that no quantizer reaches: those in the branches of If and the bodies of loops."""
    inner = sorted({node.op_type for node in graph.node if graphs_of(node)})
    count = sum(_weighted(each) for node in graph.node for each in graphs_of(node))
    if not count:
        return []
    return [f"warning: layers with weights inside {', '.join(inner)} stay in float: {count}"]


def _weighted(graph: Any) -> int:
    own = sum(node.op_type in WEIGHTED for node in graph.node)
    return own + sum(_weighted(each) for node in graph.node for each in graphs_of(node))


def _inputs_without_weights(model: Any) -> None:
    """Before IR version 4 every initializer was an input too, which a caller could replace; no quantizer's is."""
    stored = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(given)
    model.ir_version = max(model.ir_version, 4)


def _named(graph: Any) -> None:
    """Every node a name of its own: layers are told by it."""
    taken: set[str] = {""}
    for number, node in enumerate(graph.node):
        if node.name in taken:
            node.name = f"{node.op_type}_{number}"
            while node.name in taken:
                node.name += "_"
        taken.add(node.name)


def _modern(model: Any, example: Mapping[str, np.ndarray]) -> tuple[Any, list[str]]:
    """(the model in a newer opset where that works and changes no answer, what is to be said of it)."""
    from onnx import checker, version_converter

    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), _OPSET)
    if opset >= _OPSET:
        return model, []
    try:
        converted = version_converter.convert_version(model, _OPSET)
        checker.check_model(converted)
        if _alike(model, converted, example):
            return converted, [
                f"converted from opset {opset} to {_OPSET}, for a scale a channel; the answers are the same"
            ]
        reason = "the answers would differ"
    except Exception as error:  # the converter raises RuntimeError of its own, the checker and runtimes theirs
        reason = first_line(error)
    return model, [
        f"warning: not converted from opset {opset} to {_OPSET} ({reason}): weights have one scale a tensor, or no INT8 form"
    ]


def _folded(graph: Path, model: Any, example: Mapping[str, np.ndarray]) -> Any | None:
    """``model``, which is in the file ``graph``, as ONNX Runtime folds it; None where that needs operators of its own."""
    folded = optimized(graph, everything=False)
    domains = {node.domain for node in folded.graph.node}
    if domains - {node.domain for node in model.graph.node} - {""} or not _alike(model, folded, example):
        return None
    imports = [each for each in folded.opset_import if each.domain in domains | {""}]
    del folded.opset_import[:]
    folded.opset_import.extend(imports)
    _named(folded.graph)
    _called_as_before(folded.graph)
    return folded


def _called_as_before(graph: Any) -> None:
    """ONNX Runtime gives a folded weight a new name, by which its user would not know the layer: the old one again."""
    taken = {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}
    names = {}
    for tensor in graph.initializer:
        old = _FOLDED.sub("", tensor.name)
        if old and old not in taken:
            names[tensor.name] = old
            tensor.name = old
            taken.add(old)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _alike(model: Any, other: Any, example: Mapping[str, np.ndarray]) -> bool:
    """Whether two graphs, run node by node, answer the same but for rounding."""
    before, after = (
        onnxruntime_cpu.session(each.SerializeToString(), optimize=False)(example) for each in (model, other)
    )
    return all(_same(expected, after[name]) for name, expected in before.items())


def _same(expected: np.ndarray, actual: np.ndarray) -> bool:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    if expected.dtype.kind != "f":
        return bool((expected == actual).all())
    scale = float(np.nanmax(np.abs(expected), initial=0)) or 1.0
    return bool(np.allclose(actual, expected, rtol=0, atol=_TOLERANCE * scale, equal_nan=True))


def _widened(model: Any) -> list[str]:
    """float16 inside the graph as float32, in place; its inputs and outputs are cast."""
    from onnx import TensorProto, numpy_helper

    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    graph = model.graph
    stored = [tensor for tensor in graph.initializer if tensor.data_type == half]
    if not stored:
        return []
    if any(graphs_of(node) for node in graph.node):
        return ["warning: the model is in float16 and has branches or loops, so that it stays as it is"]
    types = _types(model)
    for node in graph.node:
        to = next((each.i for each in node.attribute if each.name == "to"), None)
        if node.op_type == "Cast" and {to, types.get(node.input[0])} == {half, single}:
            node.op_type = "Identity"  # a Cast to the type that is there is nothing that NNCF takes
            del node.attribute[:]
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == half:  # of Cast, EyeLike, random numbers
                attribute.i = single
            elif attribute.t.data_type == half:  # of ConstantOfShape
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
    for tensor in stored:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    before, after = [], []
    inner = {
        value.name: f"{value.name}.float32"
        for value in [*graph.input, *graph.output]
        if value.type.tensor_type.elem_type == half
    }
    for node in graph.node:
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
    for value in graph.input:
        if value.name in inner:
            before.append(_cast(value.name, inner[value.name], single))
    for value in graph.output:
        if value.name in inner:
            after.append(_cast(inner[value.name], value.name, half))
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return [
        f"the model is in float16: {len(stored)} stored tensors were widened to float32, which fp32 and the other "
        "candidates are made of; inputs and outputs stay as they are"
    ]


def _types(model: Any) -> dict[str, int]:
    """{tensor: the number of its type}, of all that can be known."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model).graph
    known = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.value_info, *graph.output]}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _cast(source: str, target: str, to: int) -> Any:
    from onnx import helper

    return helper.make_node("Cast", [source], [target], f"{target}.cast", to=to)
