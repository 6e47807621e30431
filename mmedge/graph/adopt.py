"""A foreign ONNX model behind the contract: its inputs renamed, ``present`` added, its batch axis checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge import preprocess, tasks
from mmedge.backends import onnxruntime_cpu
from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError, did_you_mean, first_line
from mmedge.graph.files import loaded
from mmedge.graph.foreign import without_weight_inputs
from mmedge.graph.inputs import ModalityInput, ModelInput, connected, helper_type, layout_of
from mmedge.graph.steady import refuse_chance
from mmedge.graph.wiring import drop_unread, graphs_of, opset_of
from mmedge.spec import ArraySpec, SensorSpec

if TYPE_CHECKING:
    from onnx import ValueInfoProto

_THEIRS = "mmedge.theirs."
_OPSET = 13
_SAME = ("Identity", "Cast", "Reshape", "Squeeze", "Flatten")


def adopt(
    source: Path,
    contract: Contract,
    names: Mapping[str, str],
    means: Mapping[str, np.ndarray],
    target: Path,
    outputs: Sequence[str] = (),
) -> list[str]:
    """Write ``source`` as a graph with the contract's inputs, ``present`` and heads; notes on what was added to it.

    ``names``: {modality: the model's input}; ``means``: {modality: [*shape]}, which stand in for an absent input
    (one token and padding for that of a text) where the model has no input ``present`` of its own. An input of another
    type is cast, one of whole numbers given the raw values, one with the channels last ([batch, height, width,
    channels], [batch, time, channels]) transposed, and one with or without a first axis of one ([batch, mels, frames],
    [batch, 1, samples]) reshaped. ``outputs``: the heads' come first, in their order, where the model has several.
    Raises UsageError where inputs or shapes do not fit.
    """
    import onnx

    model = _recent(loaded(source), source)
    graph = model.graph
    inputs = {value.name: value for value in graph.input}
    layouts = _check_inputs(inputs, contract, names, source)
    heads = _heads(model, outputs, contract, source)
    own_presence = "present" in inputs and "present" not in (names.get(name, name) for name in contract.modalities)
    theirs = {
        name: ModelInput(_THEIRS + given, inputs[given].type.tensor_type.elem_type, *layouts[name])
        for name in contract.modalities
        for given in [names.get(name, name)]
    }
    # Two worlds of names meet in one graph: all of theirs, those inside branches and loops too, get a prefix.
    prefix_names(graph, _THEIRS)
    del graph.input[:], graph.output[:], graph.value_info[:]
    added: list[Any] = []
    notes: list[str] = []
    for index, (name, spec) in enumerate(contract.modalities.items()):
        batch = ["batch", *spec.shape]
        graph.input.append(onnx.helper.make_tensor_value_info(name, helper_type(spec.dtype), batch))
        stand_in = None
        if not own_presence:
            stand_in = preprocess.stand_in(spec, means[name])
        nodes, more = connected(graph, ModalityInput(name, spec, index, stand_in), theirs[name], source)
        added, notes = added + nodes, notes + more
    presence = ["batch", len(contract.modalities)]
    graph.input.append(onnx.helper.make_tensor_value_info("present", onnx.TensorProto.BOOL, presence))
    if own_presence:
        added.append(onnx.helper.make_node("Identity", ["present"], [f"{_THEIRS}present"]))
    nodes = [*added, *graph.node]
    for head, output in heads.items():
        nodes.append(onnx.helper.make_node("Identity", [_THEIRS + output.name], [head]))
        output.name = head
        graph.output.append(output)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread(model)
    notes += [note for head in contract.heads for note in _as_logits(model, contract, head)]
    onnx.checker.check_model(model)
    onnx.save(model, target)
    return notes


def _recent(model: Any, source: Path) -> Any:
    """The model in a form that nodes can be added to: IR 4 or later, whose weights are no inputs, and opset 13 where it goes."""
    import onnx

    without_weight_inputs(model)
    try:
        onnx.checker.check_model(model)
        opset = opset_of(model, _OPSET)
        if opset >= _OPSET:
            return model
        with suppress(Exception):  # the converter raises RuntimeError of its own; Where and Gather are there from 9 on
            newer = onnx.version_converter.convert_version(model, _OPSET)
            onnx.checker.check_model(newer)
            return newer
        return model
    except Exception as error:  # onnx raises protobuf's, its own and OS errors
        raise MmedgeError(f"the ONNX file cannot be read: {first_line(error)}", where=str(source)) from error


def prefix_names(graph: Any, prefix: str) -> None:
    """Give every tensor of a graph, and of the branches and bodies inside it, a name that begins with ``prefix``."""
    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        value.name = prefix + value.name
    for sparse in graph.sparse_initializer:
        sparse.values.name = prefix + sparse.values.name
    del graph.quantization_annotation[:]
    for node in graph.node:
        for taken in (node.input, node.output):
            taken[:] = [name and prefix + name for name in taken]
        for inner in graphs_of(node):
            prefix_names(inner, prefix)


def check_whole(source: Path, contract: Contract, names: Mapping[str, str], inputs: Mapping[str, np.ndarray]) -> None:
    """Raise UsageError where the model takes whole numbers and the data's own, before they were normalised, are none.

    ``inputs``: {modality: normalised samples [n, *shape]}.
    """
    taken = onnxruntime_cpu.session(source).inputs
    for name, spec in contract.modalities.items():
        theirs = names.get(name, name)
        if (
            not isinstance(spec, (ArraySpec, SensorSpec))
            or spec.dtype != "float32"
            or taken[theirs].dtype.kind not in "iu"
        ):
            continue
        along = (-1 if len(spec.mean or ()) > 1 else 1, *(1 for _ in spec.shape[1:]))
        std, mean = (np.reshape(values or (default,), along) for values, default in ((spec.std, 1), (spec.mean, 0)))
        raw = np.asarray(inputs[name], np.float64) * std + mean
        # float32 holds seven digits of what was normalised.
        if np.abs(raw - raw.round()).max(initial=0) > 0.01 + 1e-6 * np.abs(raw).max(initial=0):
            raise UsageError(
                f"the input {theirs!r} takes {taken[theirs].dtype}, and the data's values of {name} are no whole numbers",
                where=str(source),
                todo=f"give the model's own numbers under teacher.preprocessing.{name}, or its outputs as teacher.outputs",
            )


def _as_logits(model: Any, contract: Contract, head: str) -> list[str]:
    """Take logarithms of a head's output that is probabilities, in place, since what teaches is taken for logits; a note on it.

    By its last operator, a Softmax over the classes or a Sigmoid a label.
    """
    from onnx import helper, numpy_helper

    task = tasks.of(contract.heads[head])
    wanted = "Softmax" if task.EXCLUSIVE else "Sigmoid" if task.SEVERAL else None
    made = {name: node for node in model.graph.node for name in node.output}
    last = end = made[head]
    while last.op_type in _SAME and last.input[0] in made:
        last = made[last.input[0]]
    if last.op_type != wanted:
        return []
    of = f"mmedge.{head}."
    for part, value in (("least", 1e-30), ("one", 1.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), of + part))
    chain = [
        helper.make_node("Cast", [end.input[0]], [f"{of}p"], to=1),
        helper.make_node("Max", [f"{of}p", f"{of}least"], [f"{of}max"]),
        helper.make_node("Log", [f"{of}max"], [f"{of}log"]),
    ]
    if wanted == "Sigmoid":
        chain += [
            helper.make_node("Sub", [f"{of}one", f"{of}p"], [f"{of}not"]),
            helper.make_node("Max", [f"{of}not", f"{of}least"], [f"{of}notmax"]),
            helper.make_node("Log", [f"{of}notmax"], [f"{of}lognot"]),
            helper.make_node("Sub", [f"{of}log", f"{of}lognot"], [head]),
        ]
    else:
        chain.append(helper.make_node("Identity", [f"{of}log"], [head]))
    model.graph.node.remove(end)
    model.graph.node.extend(chain)
    next(value for value in model.graph.output if value.name == head).type.tensor_type.elem_type = 1
    return [f"the model ends in a {wanted}: its probabilities are taken as logits, by their logarithms"]


def check_width(graph: Path, contract: Contract, source: Path, where: str) -> None:
    """Raise UsageError where an adopted graph fails on a batch of two, draws by chance, or does not give the contract's logits.

    ``where``: the recipe's section that names ``source``.
    """
    inputs = {name: np.zeros((2, *spec.shape), spec.dtype) for name, spec in contract.modalities.items()}
    for name, x in inputs.items():
        if x.dtype.kind == "f":  # dropout of zeros is zeros
            inputs[name] = np.random.default_rng(0).standard_normal(x.shape).astype(x.dtype)
    feed = {**inputs, "present": np.ones((2, len(inputs)), bool)}
    try:
        run = onnxruntime_cpu.session(graph)
        given = run(feed)
    except MmedgeError:
        raise
    except Exception as error:  # ONNX Runtime raises many kinds of its own
        raise UsageError(f"the model fails on a batch of 2: {first_line(error)}", where=str(source)) from error
    refuse_chance(run, feed, source, given)
    for head in contract.heads:
        shape, wanted = given[head].shape, (2, contract.width(head))
        if shape != wanted:
            raise UsageError(
                f"the model's output has shape {list(shape)} for a batch of 2; the classes need {list(wanted)}",
                where=str(source),
                todo=f"list the model's classes in its own order: {where}.classes: {{its class: class of the data, or null}}",
            )
        rows = np.asarray(given[head], np.float64)
        if tasks.of(contract.heads[head]).EXCLUSIVE and (rows >= 0).all() and np.abs(rows.sum(1) - 1).max() < 1e-4:
            raise UsageError(
                "the model's outputs are probabilities, as a mean of softmaxes is, and what teaches is taken for logits",
                where=str(source),
                todo=f"end it in their logarithm, or write its outputs into a file: {where}.outputs, with values: probabilities",
            )


def _check_inputs(
    inputs: Mapping[str, Any], contract: Contract, names: Mapping[str, str], source: Path
) -> dict[str, tuple[tuple[int, ...], bool]]:
    """{modality: the samples' shape as the model has it but for this: whether its first axis comes last}."""
    expected = {names.get(name, name): spec.shape for name, spec in contract.modalities.items()}
    found = {}
    for modality, (name, shape) in zip(contract.modalities, expected.items()):
        if name not in inputs:
            raise UsageError(
                f"the model has no input {name!r}{did_you_mean(name, inputs)}; it has {', '.join(inputs)}",
                where=str(source),
                todo="map them in the recipe: teacher.model.inputs: {modality: input}",
            )
        dims = [dim.dim_value or None for dim in inputs[name].type.tensor_type.shape.dim]
        layout = layout_of(dims, shape)
        if layout is None:
            raise UsageError(
                f"the input {name!r} has shape {dims}; the data gives [batch, {', '.join(map(str, shape))}]",
                where=str(source),
                todo=f"give it inputs of its own under teacher.preprocessing.{modality}, or its outputs as teacher.outputs",
            )
        found[modality] = layout
        if dims[0] is not None:
            raise UsageError(
                f"the batch of the input {name!r} is fixed to {dims[0]}",
                where=str(source),
                todo="export it with a dynamic batch",
            )
    unknown = sorted(inputs.keys() - expected.keys() - {"present"})
    if unknown:
        raise UsageError(f"the model also wants {', '.join(unknown)}, which no modality gives", where=str(source))
    return found


def _heads(model: Any, outputs: Sequence[str], contract: Contract, source: Path) -> dict[str, ValueInfoProto]:
    """{head: a copy of the model's output for it}; a teacher's others teach nothing."""
    import onnx

    given = {value.name: value for value in model.graph.output}
    heads = list(contract.heads)
    theirs = list(outputs[: len(heads)]) or (list(given) if len(given) == len(heads) == 1 else heads)
    found = {}
    for head, name in zip(heads, [*theirs, *heads[len(theirs) :]]):
        if name not in given:
            raise UsageError(
                f"the model has no output {name!r}{did_you_mean(name, given)}; it has {', '.join(given)}",
                where=str(source),
                todo=f"say which are those of {', '.join(heads)}, in this order: teacher.model.outputs: [their names]",
            )
        if not given[name].type.HasField("tensor_type"):
            raise UsageError(
                f"the output {name!r} is a sequence, not a tensor",
                where=str(source),
                todo="convert it with zipmap=False, or name another output: teacher.model.outputs",
            )
        found[head] = onnx.ValueInfoProto()
        found[head].CopyFrom(given[name])
    return found
