"""Cutting a fusion graph: an engine for a subset of its modalities, or encoders and fusion head apart.

Both are cut from the one verified graph, by its structure alone, so that a user's model is cut like a built-in one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.contract import Contract
from mmedge.errors import MmedgeError
from mmedge.graph.wiring import drop_unread, graphs_of, read_by

if TYPE_CHECKING:
    from onnx import NodeProto

# What a graph may do with an input before anything is computed of it.
_SAME_SHAPE = ("Cast", "Identity", "QuantizeLinear", "DequantizeLinear")
BARE = (*_SAME_SHAPE, "Reshape", "Shape", "Squeeze", "Unsqueeze")


def subset_graph(graph: Path, contract: Contract, subset: Sequence[str], target: Path) -> None:
    """Write the graph that takes only ``subset``: no input ``present``, and the absent encoders left out.

    ``present`` becomes a constant; every Where that it decides is replaced by the side that it takes, and what then
    leads nowhere is removed. An absent input that is still read becomes zeros. What then depends on nothing that is
    given (an encoder of zeros or of the training mean, features times ``present``) is computed here, once, and kept as
    a constant.
    """
    import onnx
    from onnx import helper

    model = onnx.shape_inference.infer_shapes(onnx.load(graph))
    names = list(contract.modalities)
    row = np.array([[name in subset for name in names]])
    anchor = next(name for name in names if name in subset)
    made: list[Any] = [helper.make_node("Shape", [anchor], ["mmedge.batch"], "mmedge.batch", start=0, end=1)]
    shapes = shapes_of(model)
    replaced: dict[str, list[NodeProto]] = {}
    for node, takes in _decided(model, row):
        kept, out = node.input[1 if takes else 2], node.output[0]
        if shapes.get(kept) == shapes.get(out) and out in shapes:
            replaced[node.name or out] = [helper.make_node("Identity", [kept], [out], f"{out}.kept")]
        elif out in shapes and all(isinstance(size, int) for size in shapes[out][1:]):
            replaced[node.name or out] = expanded(model, kept, out, shapes[out][1:])
    nodes: list[Any] = []
    for node in model.graph.node:
        nodes += replaced.get(node.name or (node.output[0] if node.output else ""), [node])
    model.graph.initializer.append(onnx.numpy_helper.from_array(row, "mmedge.row"))
    made += expanded(model, "mmedge.row", "present", [len(names)])
    kinds = {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in model.graph.input
    }
    for name in names:
        if name not in subset:
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(np.zeros((), kinds[name]), f"mmedge.zero.{name}")
            )
            made += expanded(model, f"mmedge.zero.{name}", name, contract.modalities[name].shape)
    finished(model, [*made, *nodes], list(subset))
    folded(model, anchor, contract.modalities[anchor].shape, shapes)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def split_graph(graph: Path, contract: Contract, folder: Path) -> dict[str, list[str]]:
    """Write ``<modality>.onnx`` for every encoder and ``fusion.onnx``; returns {modality: names of its embeddings}.

    A modality's encoder is all that it alone reaches; an output of the graph that needs no other is in neither part.
    Where something stands in for an absent input, as the training mean does in a network that knows no presence, the
    head chooses instead between the embedding and that of the stand-in. Raises MmedgeError where a modality has no part
    of its own.
    """
    import onnx

    whole = onnx.shape_inference.infer_shapes(onnx.load(graph))
    inner = sorted({node.op_type for node in whole.graph.node if graphs_of(node)})
    if inner:
        raise MmedgeError(
            f"the graph cannot be split: it has branches or loops ({', '.join(inner)})",
            where=str(graph),
            todo="leave out export.split",
        )
    stood_in = [name for name, tensors in _embeddings(whole, contract).items() if not tensors]
    model = without_stand_ins(whole, stood_in)
    own = _embeddings(model, contract)
    for name, tensors in own.items():
        if not tensors:
            raise MmedgeError(
                f"the graph cannot be split: {name} has no encoder of its own before it meets the others",
                where=str(graph),
                todo="leave out export.split",
            )
    folder.mkdir(parents=True, exist_ok=True)

    def part(inputs: list[str], outputs: list[str]) -> Any:
        for node in batch_sizes(model):
            node.input[0] = inputs[0]
        return onnx.utils.Extractor(model).extract_model(inputs, outputs)

    for name, tensors in own.items():
        onnx.save(part([name], tensors), folder / f"{name}.onnx")
    reached = inputs_of(model)
    # An output that one modality alone leads to stands in its encoder, and not in the head.
    outputs = [value.name for value in model.graph.output if len(reached.get(value.name, ())) > 1]
    head = part(["present", *(tensor for tensors in own.values() for tensor in tensors)], outputs)
    _choose(head, whole, contract, {name: own[name] for name in stood_in}, str(graph))
    onnx.save(head, folder / "fusion.onnx")
    return own


def inputs_of(model: Any) -> dict[str, frozenset[str]]:
    """{tensor: the graph's inputs that it depends on}; no entry, or an empty one, for constants and the size of the batch."""
    reached = {value.name: frozenset({value.name}) for value in model.graph.input}
    sizes = [node.output[0] for node in batch_sizes(model)]
    for node in model.graph.node:
        if node.output[0] in sizes:
            continue
        sources = frozenset().union(*(reached.get(name, frozenset()) for name in read_by(node)))
        reached |= dict.fromkeys(node.output, sources)
    return reached


def batch_sizes(model: Any) -> list[Any]:
    """The nodes that ask an input of the graph, as it is or of another type, for the size of the batch. The exporter takes
    any of them: ``present``, say, for a transformer of the sound's."""
    inputs = {value.name for value in model.graph.input}
    found = []
    for node in model.graph.node:
        if node.op_type in _SAME_SHAPE and node.input[0] in inputs:
            inputs.add(node.output[0])
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        if (
            node.op_type == "Shape"
            and node.input[0] in inputs
            and (bounds.get("start", 0), bounds.get("end")) == (0, 1)
        ):
            found.append(node)
    return found


def _embeddings(model: Any, contract: Contract) -> dict[str, list[str]]:
    """{modality: the tensors by which it meets the others}, empty where nothing was computed of it before."""
    reached = inputs_of(model)
    own: dict[str, list[str]] = {name: [] for name in contract.modalities}
    worked: set[str] = set()
    for node in model.graph.node:
        sources = reached.get(node.output[0], frozenset())
        if len(sources) == 1 and node.op_type not in BARE:
            worked |= sources
        for name in node.input:
            for only in reached.get(name, frozenset()) if len(reached.get(name, ())) == 1 else ():
                if only in own and len(sources) > 1 and name not in own[only]:
                    own[only].append(name)
    return {
        name: [] if name not in worked or {name, *contract.heads} & {*tensors} else tensors
        for name, tensors in own.items()
    }


def without_stand_ins(whole: Any, modalities: Collection[str]) -> Any:
    """The model without the Where that puts a constant in place of each of these modalities, as far as it has one."""
    import onnx

    reached, model = inputs_of(whole), onnx.ModelProto()
    model.CopyFrom(whole)
    passed: dict[str, str] = {}
    waiting = {frozenset({name}) for name in modalities}
    for node in whole.graph.node:
        if node.op_type == "Where" and reached.get(node.input[0]) == {"present"} and not reached.get(node.input[2]):
            of = reached.get(node.input[1], frozenset())
            if of in waiting:
                waiting.remove(of)
                passed[node.output[0]] = node.input[1]
    kept = [node for node in model.graph.node if node.output[0] not in passed]
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = passed.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _choose(head: Any, whole: Any, contract: Contract, embeddings: Mapping[str, Sequence[str]], where: str) -> None:
    """Let the head take, where a modality is absent, the embedding that the whole graph has for it."""
    import onnx
    from onnx import helper

    extractor, names = onnx.utils.Extractor(whole), list(contract.modalities)
    absent = {name: np.zeros((1, *spec.shape), spec.dtype) for name, spec in contract.modalities.items()}
    absent["present"] = np.zeros((1, len(names)), bool)
    least = absent | {
        name: absent[name][..., : spec.shortest] for name, spec in contract.modalities.items() if spec.shortest
    }
    two = {name: np.concatenate([x, x]) for name, x in absent.items()}
    made: list[Any] = []
    for modality, tensors in embeddings.items():
        axis = names.index(modality)
        for name, number in (("from", axis), ("to", axis + 1), ("axis", 1)):
            head.graph.initializer.append(onnx.numpy_helper.from_array(np.array([number]), f"mmedge.{modality}.{name}"))
        sliced = [f"mmedge.{modality}.{name}" for name in ("from", "to", "axis")]
        made.append(helper.make_node("Slice", ["present", *sliced], [f"mmedge.{modality}.there"]))
        for tensor in tensors:
            part = onnxruntime_cpu.session(
                extractor.extract_model([given.name for given in whole.graph.input], [tensor]).SerializeToString(),
                optimize=False,
            )
            value, of_shortest, of_two = (
                part({name: given[name] for name in part.inputs})[tensor] for given in (absent, least, two)
            )
            if of_two.shape != (2, *value.shape[1:]) or len(value) != 1:
                raise MmedgeError(
                    f"the graph cannot be split: what the encoder of {modality} gives ({tensor}) has no row a sample, but shape {list(of_two.shape)} for two",
                    where=where,
                    todo="leave out export.split",
                )
            if value.shape != of_shortest.shape:
                raise MmedgeError(
                    f"the graph cannot be split: what the encoder of {modality} gives has a dynamic length",
                    where=where,
                    todo=f"leave out export.split, or data.modalities.{modality}.min_length",
                )
            rank, there = np.array([-1, *(1 for _ in value.shape[1:])]), f"{tensor}.there"
            head.graph.initializer.append(onnx.numpy_helper.from_array(value, f"{tensor}.absent"))
            head.graph.initializer.append(onnx.numpy_helper.from_array(rank, f"{tensor}.rank"))
            made.append(helper.make_node("Reshape", [f"mmedge.{modality}.there", f"{tensor}.rank"], [there]))
            made.append(helper.make_node("Where", [there, tensor, f"{tensor}.absent"], [f"{tensor}.chosen"]))
            for node in head.graph.node:
                for index, name in enumerate(node.input):
                    if name == tensor:
                        node.input[index] = f"{tensor}.chosen"
    rest = list(head.graph.node)
    del head.graph.node[:]
    head.graph.node.extend([*made, *rest])
    onnx.checker.check_model(head)


def _decided(model: Any, row: np.ndarray) -> list[tuple[Any, bool]]:
    """The Where nodes whose condition ``present`` alone decides, the same for the whole batch, and the side they take."""
    import onnx

    constant = {tensor.name for tensor in model.graph.initializer}
    known, nodes = {"present"}, []
    for node in model.graph.node:
        read = read_by(node)
        if read and all(name in known or name in constant or not name for name in read):
            (known if read & known else constant).update(node.output)
            nodes.append(node)
        elif not read:
            constant.update(node.output)
            nodes.append(node)
    wheres = [node for node in model.graph.node if node.op_type == "Where" and node.input[0] in known]
    conditions = sorted({node.input[0] for node in wheres} - {"present"})
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.output[:], part.graph.value_info[:]
    part.graph.node.extend(nodes)
    kept = [value for value in model.graph.input if value.name == "present"]
    del part.graph.input[:]
    part.graph.input.extend(kept)
    part.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, None) for name in conditions
    )
    values = {"present": row}
    if conditions:
        values |= onnxruntime_cpu.session(part.SerializeToString(), optimize=False)({"present": row})
    return [
        (node, bool(values[node.input[0]].all()))
        for node in wheres
        if values[node.input[0]].all() or not values[node.input[0]].any()
    ]


def expanded(model: Any, source: str, out: str, rest: Iterable[Any]) -> list[Any]:
    """Nodes that repeat ``source`` to [batch, *rest], named ``out``."""
    import onnx
    from onnx import helper

    # By source and result: a Where's kept side is repeated first, and may then turn out to be a constant.
    sizes, shape = f"{source}.{out}.rest", f"{source}.{out}.shape"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(list(rest), np.int64), sizes))
    return [
        helper.make_node("Concat", ["mmedge.batch", sizes], [shape], shape, axis=0),
        helper.make_node("Expand", [source, shape], [out], f"{out}.expanded"),
    ]


def folded(model: Any, anchor: str, size: Sequence[int], shapes: dict[str, list[int | str]]) -> None:
    """Make constants of what is the same for every row of every batch, whatever the inputs hold.

    Judged by computing it for batches of 1, 2 and 3: what couples the rows of a batch, or counts them, is left alone.
    """
    import onnx

    constant = {tensor.name for tensor in model.graph.initializer} | {""}
    idle = {"mmedge.batch"}  # depends on the size of the batch at most
    for node in batch_sizes(model):
        node.input[0] = anchor
        idle.add(node.output[0])
    for node in model.graph.node:
        if all(name in constant or name in idle for name in read_by(node)):
            idle.update(node.output)
    read = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if not idle.issuperset(node.output):
            read.update(read_by(node))
    ends = sorted((read & idle) - {"mmedge.batch", ""})
    alike = {
        name: values[0] for name, values in zip(ends, _at_batches(model, anchor, size, ends)) if _rows_alike(values)
    }
    nodes, made = [], []
    for name, value in alike.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, f"{name}.once"))
        made += expanded(model, f"{name}.once", name, value.shape[1:])
    for node in model.graph.node:
        if not alike.keys() & set(node.output):
            _broadcast(node, alike, shapes)
            nodes.append(node)
    after = next((index for index, node in enumerate(nodes, 1) if "mmedge.batch" in node.output), 0)
    finished(model, [*nodes[:after], *made, *nodes[after:]], [value.name for value in model.graph.input])


def _at_batches(model: Any, anchor: str, size: Sequence[int], names: Sequence[str]) -> list[list[np.ndarray]]:
    """Values of tensors that depend on the batch size alone, each for batches of 1, 2 and 3. ``size``: of ``anchor``, without it."""
    if not names:
        return []
    import onnx

    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    finished(part, list(part.graph.node), [anchor])
    session = onnxruntime_cpu.session(part.SerializeToString(), optimize=False)
    kind = session.inputs[anchor].dtype
    outputs = [session({anchor: np.zeros((rows, *size), kind)}) for rows in (1, 2, 3)]
    return [[output[name] for output in outputs] for name in names]


def _rows_alike(values: Sequence[np.ndarray]) -> bool:
    """Whether [1, …], [2, …] and [3, …] repeat one row."""
    first = values[0]
    return all(
        value.shape == (rows, *first.shape[1:]) and bool(np.allclose(value, first, rtol=1e-5, atol=1e-7))
        for rows, value in enumerate(values, 1)
    )


def _broadcast(node: Any, alike: Mapping[str, np.ndarray], shapes: Mapping[str, list[int | str]]) -> None:
    """Let an elementwise node read the one row itself where another of its inputs brings the batch."""
    if node.op_type not in ("Add", "Sub", "Mul", "Div", "Where"):
        return
    others = [shapes.get(name, []) for name in node.input if name not in alike]
    ranks = {len(shape) for shape in others if shape and isinstance(shape[0], str)}
    for index, name in enumerate(node.input):
        if name in alike and alike[name].ndim in ranks:
            node.input[index] = f"{name}.once"


def finished(model: Any, nodes: list[Any], inputs: list[str]) -> None:
    """Keep the nodes, initializers and inputs that the outputs need."""
    taken = [value for value in model.graph.input if value.name in inputs]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.input.extend(taken)
    drop_unread(model)


def shapes_of(model: Any) -> dict[str, list[int | str]]:
    """{tensor: its axes, a name where one is dynamic}, as far as they can be inferred."""
    shapes: dict[str, list[int | str]] = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        axes = [axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.HasField("shape") and all(axes):
            shapes[value.name] = axes
    return shapes
