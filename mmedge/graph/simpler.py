"""A float graph that computes the same with fewer nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmedge.graph.wiring import Wiring, drop_unread, integer_of

# An entry of a shape as the graph computes it: a number, or (tensor, axis) for the size of that axis.
_Size = int | tuple[str, int]
# What stands for the first open size of a graph's inputs, and one more for each other: no known size is likely to be as large.
_OPEN = 4099
# Stored tensors of more values are no shapes, and are not read to infer any.
_LARGEST_SHAPE = 1024


def simplify(model: Any) -> None:
    """Rewrite, in place, what torch's exporter writes in a roundabout way around attention; a node of it costs as much as a sum.

    1. Keys that are turned by way of three axes and computed shapes are turned by one Transpose.
    2. A softmax over scores that no mask makes infinite gives no NaN, which need not be looked for.
    3. A padding mask that is picked from itself, entry by entry, is that mask.
    """
    wiring = Wiring(model)
    if not any(node.op_type == "Softmax" for node in wiring.nodes):
        return
    sizes = sizes_of(model, _OPEN)
    for at, node in enumerate(wiring.nodes):
        other = _turned(node, wiring, sizes) or _never_nan(node, wiring) or _picked_whole(node, wiring, sizes, model)
        if other is not None:
            model.graph.node[at].CopyFrom(other)
    drop_unread(model)


def _turned(node: Any, wiring: Wiring, sizes: Mapping[str, list[int]]) -> Any:
    """One Transpose for a Reshape to three axes, a Transpose of the last two and a Reshape to four."""
    from onnx import helper

    turn = wiring.made_by.get(node.input[0]) if node.op_type == "Reshape" else None
    flat = wiring.made_by.get(turn.input[0]) if turn is not None and _permutation(turn) == [0, 2, 1] else None
    if flat is None or flat.op_type != "Reshape":
        return None
    x = flat.input[0]
    if len(sizes.get(x, [])) != 4:
        return None
    axes: list[_Size] = [(x, axis) for axis in range(4)]
    whole, inner = _computed(node.input[1], wiring), _computed(flat.input[1], wiring)
    if whole != [*axes[:2], axes[3], axes[2]] or inner != [-1, *axes[2:]]:
        return None
    return helper.make_node("Transpose", [x], list(node.output), node.name, perm=[0, 1, 3, 2])


def _permutation(node: Any) -> Sequence[int] | None:
    values = (list(attribute.ints) for attribute in node.attribute if attribute.name == "perm")
    return next(values, None) if node.op_type == "Transpose" else None


def _computed(name: str, wiring: Wiring) -> list[_Size] | None:
    """The entries of a shape that a graph computes; None where they are not known."""
    if name in wiring.constants:
        value = wiring.value(name)
        return [int(each) for each in value] if value.ndim == 1 else None
    node = wiring.made_by.get(name)
    if node is None:
        return None
    match node.op_type:
        case "Shape":  # of four axes, or nothing here matches
            ends = {attribute.name: attribute.i for attribute in node.attribute}
            axes: list[_Size] = [(node.input[0], axis) for axis in range(4)]
            return axes[ends.get("start", 0) : ends.get("end", 4)]
        case "Concat":
            parts = [_computed(each, wiring) for each in node.input]
            return None if None in parts else [size for part in parts for size in part or ()]
        case "Slice" if len(node.input) < 5:
            whole, start, end = (_computed(each, wiring) for each in list(node.input)[:3])
            if whole and start and end and isinstance(start[0], int) and isinstance(end[0], int):
                return whole[start[0] : end[0]]
    return None


def _never_nan(node: Any, wiring: Wiring) -> Any:
    """An Identity for a Where that takes a softmax, but 0 for NaN, where its scores hold no infinity."""
    from onnx import helper

    if node.op_type != "Where" or node.input[1] not in wiring.constants:
        return None
    test, softmax = wiring.made_by.get(node.input[0]), wiring.made_by.get(node.input[2])
    if test is None or softmax is None or test.op_type != "IsNaN" or softmax.op_type != "Softmax":
        return None
    scores = wiring.made_by.get(softmax.input[0])
    if test.input[0] != node.input[2] or scores is None or scores.op_type != "Add":
        return None
    mask = next((made for made in map(wiring.made_by.get, scores.input) if made and made.op_type == "Where"), None)
    ends = (
        [name in wiring.constants and np.isfinite(wiring.value(name)).all() for name in mask.input[1:]] if mask else []
    )
    return helper.make_node("Identity", [node.input[2]], list(node.output), node.name) if ends and all(ends) else None


def _picked_whole(node: Any, wiring: Wiring, sizes: Mapping[str, list[int]], model: Any) -> Any:
    """An Unsqueeze for a GatherND that takes of a mask [batch, k] every (row, column), as [batch, 1, ..., 1, k]."""
    from onnx import helper

    pair = wiring.made_by.get(node.input[1]) if node.op_type == "GatherND" and not _rows(node) else None
    if pair is None or pair.op_type != "Concat" or len(pair.input) != 2:
        return None
    rows, columns = (_before_expansion(name, wiring) for name in pair.input)
    mask, of_rows, of_columns = sizes.get(node.input[0], []), sizes.get(rows, []), sizes.get(columns, [])
    rank, count = len(of_rows), _counted(rows, wiring)
    if len(mask) != 2 or rank < 2 or len(of_columns) != rank or any(size != 1 for size in of_rows[1:]):
        return None
    stored = wiring.value(columns) if columns in wiring.constants else np.zeros(0)
    if of_columns != [1] * (rank - 1) + [mask[1]] or not np.array_equal(stored.ravel(), np.arange(mask[1])):
        return None
    given = sizes.get(count[0], []) if count is not None else []
    if count is None or len(given) <= count[1] or given[count[1]] != mask[0] or not mask[0]:
        return None
    axes = _stored(model, f"{node.name}.axes", range(1, rank - 1))
    return helper.make_node("Unsqueeze", [node.input[0], axes], list(node.output), node.name)


def _rows(node: Any) -> int:
    """How many first axes a GatherND does not pick from."""
    return integer_of(node, "batch_dims", 0)


def _before_expansion(name: str, wiring: Wiring) -> str:
    """The tensor that an Expand, and an Unsqueeze of a last axis behind it, spread."""
    for kind in ("Unsqueeze", "Expand"):
        node = wiring.made_by.get(name)
        if node is not None and node.op_type == kind:
            name = node.input[0]
    return name


def _counted(name: str, wiring: Wiring) -> tuple[str, int] | None:
    """(tensor, axis) where a tensor counts from 0 to below the size of that axis, through what adds axes."""
    node = wiring.made_by.get(name)
    while node is not None and node.op_type in ("Unsqueeze", "Reshape"):
        node = wiring.made_by.get(node.input[0])
    if (
        node is None
        or node.op_type != "Range"
        or not all(each in wiring.constants for each in (node.input[0], node.input[2]))
    ):
        return None
    end = wiring.made_by.get(node.input[1])
    size = _computed(end.input[0], wiring) if end is not None and end.op_type == "Squeeze" else None
    if wiring.value(node.input[0]).item() != 0 or wiring.value(node.input[2]).item() != 1 or not size:
        return None
    return size[0] if isinstance(size[0], tuple) else None


def _stored(model: Any, name: str, value: Sequence[int]) -> str:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    return name


def sizes_of(model: Any, unknown: int | None = None) -> dict[str, list[int]]:
    """{tensor: its sizes, 0 where one is not known}, by ONNX's inference.

    ``unknown``: what stands for open sizes of inputs, counted on for each other name, so that different ones stay different.
    """
    import onnx

    small = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    small.graph.name = "sizes"
    small.graph.node.extend(model.graph.node)
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) <= _LARGEST_SHAPE:
            small.graph.initializer.append(tensor)
        else:
            small.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    named: dict[str, int] = {}
    for value in model.graph.input:
        given = small.graph.input.add()
        given.CopyFrom(value)
        for axis, size in enumerate(given.type.tensor_type.shape.dim):
            if unknown is not None and not size.HasField("dim_value"):
                size.dim_value = named.setdefault(size.dim_param or f"{value.name} {axis}", unknown + len(named))
    known = onnx.shape_inference.infer_shapes(small, data_prop=True).graph
    found = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in [*known.value_info, *known.input]
    }
    return found | {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
