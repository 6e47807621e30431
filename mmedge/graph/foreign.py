"""A user's ONNX file in the one form that candidates are made of: one file of float32, its nodes named, its constants folded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.errors import MmedgeError, UsageError, first_line
from mmedge.graph import norms
from mmedge.graph.files import loaded
from mmedge.graph.precision import optimized
from mmedge.graph.qdq import WEIGHTED
from mmedge.graph.simpler import simplify
from mmedge.graph.wiring import graphs_of, opset_of, renamed

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
    outputs keep their types), and float64 too where the answers stay the same, an opset before 13 is converted, and what ONNX Runtime folds before anything else is
    folded: constants, and a BatchNormalization into its Conv, which otherwise keeps the Conv from running in 8 bits.
    Conversion and folding are taken where they answer ``example``, {input: array}, as before. Raises UsageError for a
    graph that is quantized already, MmedgeError for one of more than 2 GB.
    """
    import onnx
    from onnx import inliner

    model = loaded(source)
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
    without_weight_inputs(model)
    model, notes = _in_float32(model, example)
    model, modern = _modern(model, example)
    model, joined = _with_norms(model, example)  # before ONNX Runtime moves Transposes into them
    _named(model.graph)
    onnx.save(model, target)  # ONNX Runtime reads it there
    folded = _folded(target, model, example)
    if folded is not None:
        onnx.save(model, unfolded(target))
        model = folded
    simplify(model)
    onnx.save(model, target)
    return notes + modern + joined + _inside(model.graph)


def unfolded(target: Path) -> Path:
    """Where ``tidied`` writes the graph as it was before it was folded, where that is another one.

    Folding also takes operators apart that are functions of others, such as GroupNormalization, and a quantizer that
    takes the whole may not take the parts.
    """
    return target.with_name(f"{target.stem}.unfolded.onnx")


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


def without_weight_inputs(model: Any) -> None:
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

    opset = opset_of(model, _OPSET)
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


def _with_norms(model: Any, example: Mapping[str, np.ndarray]) -> tuple[Any, list[str]]:
    """(the model with one node a layer norm, what is to be said of it): by these it is known what bears 8 bits, and what does not."""
    from onnx import checker, version_converter

    if not norms.spelled_out(model):
        return model, []
    opset = opset_of(model, _OPSET)
    try:
        if opset < norms.OPSET:
            newer = version_converter.convert_version(model, norms.OPSET)
        else:
            newer = type(model).FromString(model.SerializeToString())
        count = norms.join(newer)
        checker.check_model(newer)
        if count and _alike(model, newer, example):
            said = f"{count} layer norms that were spelled out are one node each (opset {max(opset, norms.OPSET)})"
            return newer, [said]
    except Exception:  # the converter raises RuntimeError of its own, the checker and runtimes theirs
        pass  # the model is left as it was
    return model, []


def to_opset(graph: Path, opset: int, example: Mapping[str, np.ndarray]) -> list[str]:
    """Convert a graph to another opset, in place; what is to be said of it. ``example``: inputs that both must answer alike.

    Raises UsageError where it has operators that the other opset lacks, or other answers there.
    """
    import onnx

    model = onnx.load(graph)
    before = opset_of(model, _OPSET)
    if before == opset:
        return []
    try:
        converted = onnx.version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted)
        reason = "" if _alike(model, converted, example) else "the answers would differ"
    except Exception as error:  # the converter raises RuntimeError of its own, the checker and runtimes theirs
        reason = first_line(error)
    if reason:
        raise UsageError(
            f"the ONNX file is of opset {before}, and cannot be converted to {opset}: {reason}",
            where="export.opset",
            todo="leave it out: the file keeps its own",
        )
    onnx.save(converted, graph)
    return [f"converted from opset {before} to {opset}; the answers are the same"]


def _folded(graph: Path, model: Any, example: Mapping[str, np.ndarray]) -> Any | None:
    """``model``, which is in the file ``graph``, as ONNX Runtime folds it; None where that needs operators of its own."""
    folded = optimized(graph, everything=False)
    if _adds_branches(folded.graph) or _flattens(model.graph, folded.graph):
        folded = optimized(graph, everything=False, without=("MatMulAddFusion",))
    domains = {node.domain for node in folded.graph.node}
    if domains - {node.domain for node in model.graph.node} - {""} or not _alike(model, folded, example):
        return None
    imports = [each for each in folded.opset_import if each.domain in domains | {""}]
    del folded.opset_import[:]
    folded.opset_import.extend(imports)
    _named(folded.graph)
    _called_as_before(folded.graph)
    return folded


def _adds_branches(graph: Any) -> bool:
    """Whether a Gemm adds another branch instead of a stored bias: a sum that was folded into it, which NNCF does not take."""
    stored = {tensor.name for tensor in graph.initializer}
    stored |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return any(node.op_type == "Gemm" and len(node.input) > 2 and node.input[2] not in stored for node in graph.node)


def _flattens(before: Any, after: Any) -> bool:
    """Whether a product of three axes has become a Gemm between two Reshapes, which ONNX Runtime then runs in float.

    Reshapes are not counted: folding takes others away.
    """
    own = {name for node in before.node for name in node.output}
    added = {node.output[0] for node in after.node if node.op_type == "Reshape"} - own
    return any(node.op_type == "Gemm" and node.input[0] in added for node in after.node)


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
    renamed(graph, names)


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
    finite = np.isfinite(expected)
    scale = float(np.abs(expected[finite]).max(initial=0)) or 1.0
    return np.array_equal(actual[~finite], expected[~finite], equal_nan=True) and bool(
        np.allclose(actual[finite], expected[finite], rtol=0, atol=_TOLERANCE * scale)
    )


def _in_float32(model: Any, example: Mapping[str, np.ndarray]) -> tuple[Any, list[str]]:
    """(the model with float16 and float64 inside as float32, what is to be said of it)."""
    from onnx import ModelProto, TensorProto, checker

    notes: list[str] = []
    for name, kind in (("float16", TensorProto.FLOAT16), ("float64", TensorProto.DOUBLE)):
        if not _has(model, kind):
            continue
        if any(graphs_of(node) for node in model.graph.node):
            notes.append(f"warning: the model is in {name} and has branches or loops, so that it stays as it is")
            continue
        other = ModelProto()
        other.CopyFrom(model)
        count = _converted(other, kind)
        try:
            checker.check_model(other)
            # float16 is not run by every CPU; it loses nothing as float32, which float64 may.
            same = kind == TensorProto.FLOAT16 or _alike(model, other, example)
        except Exception as error:  # onnx's and ONNX Runtime's errors share no base class
            notes.append(f"warning: the model is in {name} and stays so: {first_line(error)}")
            continue
        if not same:
            notes.append(f"warning: the model is in {name} and stays so: in float32 the answers would differ")
            continue
        model = other
        done = "widened" if kind == TensorProto.FLOAT16 else "rounded"
        notes.append(
            f"the model is in {name}: {count} stored tensors were {done} to float32, which fp32 and the other "
            "candidates are made of; inputs and outputs stay as they are"
        )
    return model, notes


def _has(model: Any, kind: int) -> bool:
    """Whether a graph computes in floats of that type: stored, cast to, or given."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    return (
        any(tensor.data_type == kind for tensor in graph.initializer)
        or any(value.type.tensor_type.elem_type == kind for value in values)
        or any(_names(attribute, kind) for node in graph.node for attribute in node.attribute)
    )


def _names(attribute: Any, kind: int) -> bool:
    return (attribute.name in ("to", "dtype") and attribute.i == kind) or attribute.t.data_type == kind


def _converted(model: Any, half: int) -> int:
    """Floats of type ``half`` inside a graph as float32, in place, its inputs and outputs cast; how many were stored."""
    from onnx import TensorProto, numpy_helper

    single = TensorProto.FLOAT
    graph = model.graph
    stored = [tensor for tensor in graph.initializer if tensor.data_type == half]
    types = _types(model)
    for node in graph.node:
        to = next((each.i for each in node.attribute if each.name == "to"), None)
        if node.op_type == "Cast" and {to, types.get(node.input[0])} == {half, single}:
            node.op_type = "Identity"  # a Cast to the type that is there is nothing that NNCF takes
            del node.attribute[:]
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == half:  # of Cast, EyeLike, random numbers
                attribute.i = single
            elif attribute.t.data_type == half:  # of ConstantOfShape and Constant
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
    return len(stored)


def _types(model: Any) -> dict[str, int]:
    """{tensor: the number of its type}, of all that can be known."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model).graph
    known = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.value_info, *graph.output]}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _cast(source: str, target: str, to: int) -> Any:
    from onnx import helper

    return helper.make_node("Cast", [source], [target], f"{target}.cast", to=to)
