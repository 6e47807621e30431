"""A foreign ONNX model behind the contract: its inputs renamed, ``present`` added, its batch axis checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.errors import MmedgeError, UsageError, did_you_mean, first_line
from mmedge.graph.qdq import drop_unread
from mmedge.preprocess import text
from mmedge.spec import Contract, TextSpec


def adopt(
    source: Path,
    contract: Contract,
    names: Mapping[str, str],
    means: Mapping[str, np.ndarray],
    target: Path,
    outputs: Sequence[str] = (),
) -> None:
    """Write ``source`` as a graph with the contract's inputs, ``present`` and heads.

    ``names``: {modality: the model's input}; ``means``: {modality: [*shape]}, which stand in for an absent input
    (one token and padding for that of a text) where the model has no input ``present`` of its own. An input of another type is cast,
    and one with the channels last ([batch, height, width, channels], [batch, time, channels]) transposed. ``outputs``:
    the heads' come first, in their order, where the model has several. Raises UsageError where inputs or shapes do not fit.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    if not source.is_file():
        raise MmedgeError("the ONNX file does not exist", where=str(source))
    try:
        model = onnx.load(source)
        onnx.checker.check_model(model)
    except Exception as error:  # onnx raises protobuf's, its own and OS errors
        raise MmedgeError(f"the ONNX file cannot be read: {first_line(error)}", where=str(source)) from error
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in weights}
    last = _check_inputs(inputs, contract, names, source)
    _keep_heads(model, outputs, contract, source)
    added: list[Any] = []
    own_presence = "present" in inputs
    for index, (name, spec) in enumerate(contract.modalities.items()):
        theirs, rank = names.get(name, name), len(spec.shape)
        ours, wanted = (
            helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)),
            inputs[theirs].type.tensor_type.elem_type,
        )
        _rename(graph, theirs, f"mmedge.{name}.taken")
        graph.input.remove(next(value for value in graph.input if value.name == f"mmedge.{name}.taken"))
        graph.input.append(helper.make_tensor_value_info(name, ours, ["batch", *spec.shape]))
        chain = []  # (operator, attributes) from the data's tensor to the model's input
        if not own_presence:
            stand_in = text.stand_in(spec) if isinstance(spec, TextSpec) else np.asarray(means[name])
            constants = {
                "mean": stand_in.astype(spec.dtype)[None],
                "at": np.array([index], np.int64),
                "to": np.array([-1] + [1] * rank, np.int64),
            }
            for part, value in constants.items():
                graph.initializer.append(numpy_helper.from_array(value, f"mmedge.{name}.{part}"))
            added += [
                helper.make_node("Gather", ["present", f"mmedge.{name}.at"], [f"mmedge.{name}.given"], axis=1),
                helper.make_node("Reshape", [f"mmedge.{name}.given", f"mmedge.{name}.to"], [f"mmedge.{name}.there"]),
                helper.make_node(
                    "Where", [f"mmedge.{name}.there", name, f"mmedge.{name}.mean"], [f"mmedge.{name}.filled"]
                ),
            ]
        if name in last:
            chain.append(("Transpose", {"perm": [0, *range(2, rank + 1), 1]}))
        if ours != wanted:
            chain.append(("Cast", {"to": wanted}))
        before = name if own_presence else f"mmedge.{name}.filled"
        for number, (operator, attributes) in enumerate(chain or [("Identity", {})]):
            after = f"mmedge.{name}.{number}" if number < len(chain) - 1 else f"mmedge.{name}.taken"
            added.append(helper.make_node(operator, [before], [after], **attributes))
            before = after
    if not own_presence:
        graph.input.append(
            helper.make_tensor_value_info("present", TensorProto.BOOL, ["batch", len(contract.modalities)])
        )
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, target)


def count(graph: Path) -> tuple[int, int]:
    """(parameters, multiply-accumulates of one sample) of a graph: what its constants hold, and its Conv, Gemm and MatMul do."""
    import onnx
    from onnx import numpy_helper, shape_inference

    model = onnx.load(graph)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].ClearField("dim_param")
        value.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    shapes = {tensor.name: list(tensor.dims) for tensor in inferred.graph.initializer}
    for value in [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]:
        shapes[value.name] = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    parameters = sum(
        numpy_helper.to_array(tensor).size
        for tensor in model.graph.initializer
        if tensor.data_type in (1, 3, 10, 11, 16)
    )
    macs = 0
    for node in inferred.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.output[0] in shapes and node.input[1] in shapes:
            weight, out = shapes[node.input[1]], int(np.prod(shapes[node.output[0]]))
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            depth = weight[-1] if transposed else weight[-2] if len(weight) > 1 else weight[0]
            macs += out * int(np.prod(weight[1:]) if node.op_type == "Conv" else depth)
    return parameters, macs


def check_width(graph: Path, contract: Contract, source: Path, where: str) -> None:
    """Raise UsageError where an adopted graph fails on a batch of two, or does not answer with the contract's outputs.

    ``where``: the recipe's section that names ``source``.
    """
    inputs = {name: np.zeros((2, *spec.shape), spec.dtype) for name, spec in contract.modalities.items()}
    try:
        answers = onnxruntime_cpu.session(graph)({**inputs, "present": np.ones((2, len(inputs)), bool)})
    except MmedgeError:
        raise
    except Exception as error:  # ONNX Runtime raises many kinds of its own
        raise UsageError(f"the model fails on a batch of 2: {first_line(error)}", where=str(source)) from error
    for head in contract.heads:
        shape, wanted = answers[head].shape, (2, contract.width(head))
        if shape != wanted:
            raise UsageError(
                f"the model's output has shape {list(shape)} for a batch of 2; the classes need {list(wanted)}",
                where=str(source),
                todo=f"list the model's classes in its own order: {where}.classes: {{its class: class of the data, or null}}",
            )


def _check_inputs(inputs: Mapping[str, Any], contract: Contract, names: Mapping[str, str], source: Path) -> set[str]:
    """The modalities that the model takes with the channels last."""
    expected = {names.get(name, name): spec.shape for name, spec in contract.modalities.items()}
    last = set()
    for modality, (name, shape) in zip(contract.modalities, expected.items()):
        if name not in inputs:
            raise UsageError(
                f"the model has no input {name!r}{did_you_mean(name, inputs)}; it has {', '.join(inputs)}",
                where=str(source),
                todo="map them in the recipe: teacher.model.inputs: {modality: input}",
            )
        dims = [dim.dim_value or None for dim in inputs[name].type.tensor_type.shape.dim]
        if not _takes(dims, shape):
            if not _takes(dims, (*shape[1:], shape[0])):
                raise UsageError(
                    f"the input {name!r} has shape {dims}; the data gives [batch, {', '.join(map(str, shape))}]",
                    where=str(source),
                    todo=f"give it inputs of its own under teacher.preprocessing.{modality}, or its answers as teacher.outputs",
                )
            last.add(modality)
        if dims[0] is not None:
            raise UsageError(
                f"the batch of the input {name!r} is fixed to {dims[0]}",
                where=str(source),
                todo="export it with a dynamic batch",
            )
    unknown = sorted(inputs.keys() - expected.keys() - {"present"})
    if unknown:
        raise UsageError(f"the model also wants {', '.join(unknown)}, which no modality gives", where=str(source))
    return last


def _takes(dims: Sequence[int | None], shape: Sequence[int]) -> bool:
    """Whether an input of ``dims`` (the batch first, None: any size) takes samples of ``shape``."""
    return len(dims) == len(shape) + 1 and all(have in (None, want) for have, want in zip(dims[1:], shape))


def _keep_heads(model: Any, outputs: Sequence[str], contract: Contract, source: Path) -> None:
    """Leave the heads' outputs, by the contract's names: a teacher's others teach nothing."""
    given = {value.name: value for value in model.graph.output}
    heads = list(contract.heads)
    theirs = list(outputs[: len(heads)]) or (list(given) if len(given) == len(heads) == 1 else heads)
    for name in (*theirs, *heads[len(theirs) :]):
        if name not in given:
            raise UsageError(
                f"the model has no output {name!r}{did_you_mean(name, given)}; it has {', '.join(given)}",
                where=str(source),
                todo=f"say which are those of {', '.join(heads)}, in this order: teacher.model.outputs: [their names]",
            )
    del model.graph.output[:]
    model.graph.output.extend(given[name] for name in theirs)
    drop_unread(model)
    # By way of names that nothing has: a head may be called as another tensor, or another head's output, is.
    for number, (old, new) in enumerate(zip(theirs, heads)):
        if old != new:
            _rename(model.graph, new, f"mmedge.{new}")
            theirs = [f"mmedge.{new}" if name == new else name for name in theirs]
        _rename(model.graph, theirs[number], f"mmedge.head.{number}")
    for number, new in enumerate(heads):
        _rename(model.graph, f"mmedge.head.{number}", new)


def _rename(graph: Any, old: str, new: str) -> None:
    for value in [*graph.input, *graph.output]:
        if value.name == old:
            value.name = new
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
