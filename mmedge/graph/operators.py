"""ONNX operators as differentiable torch functions: what a graph must be made of to be trained as it ships.

Each function takes the node's inputs (None where one is left out) and its attributes, and returns the output, or a
tuple of them. Semantics are those of https://onnx.ai/onnx/operators/ at opset 13 and above.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmedge.errors import MmedgeError

Attributes = Mapping[str, Any]
Operator = Callable[[Sequence[Any], Attributes], Any]

# TensorProto.DataType -> torch
DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}


def untrainable(what: str, where: str | None = None) -> MmedgeError:
    """The error of a graph that holds ``what``."""
    return MmedgeError(f"a graph with {what} cannot be trained", where=where)


def _each(function: Callable[..., Tensor]) -> Operator:
    """An operator without attributes."""
    return lambda x, _: function(*x)


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of any number of inputs, taken two by two."""

    def run(x: Sequence[Tensor], _: Attributes) -> Tensor:
        result = x[0]
        for other in x[1:]:
            result = function(result, other)
        return result

    return run


def _div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _padded(x: Tensor, a: Attributes, dims: int, value: float = 0.0) -> tuple[Tensor, Any]:
    """(x, padding for torch): torch pads both sides alike, so that other pads are made beforehand."""
    if a.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        strides, dilations, kernel = a.get("strides", [1] * dims), a.get("dilations", [1] * dims), a["kernel_shape"]
        total = [
            max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
            for size, s, d, k in zip(x.shape[2:], strides, dilations, kernel)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = less + more if a["auto_pad"] == b"SAME_UPPER" else more + less
    else:
        pads = list(a.get("pads", [0] * 2 * dims))
    before, after = pads[:dims], pads[dims:]
    if before == after:
        return x, before
    both = [p for pair in zip(reversed(before), reversed(after)) for p in pair]
    return functional.pad(x, both, value=value), [0] * dims


def _conv(x: Sequence[Any], a: Attributes) -> Tensor:
    dims = x[1].dim() - 2
    data, padding = _padded(x[0], {"kernel_shape": list(x[1].shape[2:]), **a}, dims)
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[dims - 1]
    strides, dilations = a.get("strides", [1] * dims), a.get("dilations", [1] * dims)
    return function(data, x[1], x[2] if len(x) > 2 else None, strides, padding, dilations, a.get("group", 1))


def _conv_transpose(x: Sequence[Any], a: Attributes) -> Tensor:
    dims = x[1].dim() - 2
    pads = list(a.get("pads", [0] * 2 * dims))
    if pads[:dims] != pads[dims:] or a.get("output_shape") or a.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise untrainable("ConvTranspose with uneven pads or an output shape")
    function = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[dims - 1]
    return function(
        x[0],
        x[1],
        x[2] if len(x) > 2 else None,
        a.get("strides", [1] * dims),
        pads[:dims],
        a.get("output_padding", [0] * dims),
        a.get("group", 1),
        a.get("dilations", [1] * dims),
    )


def _gemm(x: Sequence[Any], a: Attributes) -> Tensor:
    left = x[0].t() if a.get("transA") else x[0]
    right = x[1].t() if a.get("transB") else x[1]
    result = a.get("alpha", 1.0) * (left @ right) if a.get("alpha", 1.0) != 1 else left @ right
    return result + a.get("beta", 1.0) * x[2] if len(x) > 2 and x[2] is not None else result


def _max_pool(x: Sequence[Any], a: Attributes) -> Tensor:
    dims = len(a["kernel_shape"])
    data, padding = _padded(x[0], a, dims, value=float("-inf"))
    function = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[dims - 1]
    strides, dilations = a.get("strides", [1] * dims), a.get("dilations", [1] * dims)
    return function(data, a["kernel_shape"], strides, padding, dilations, bool(a.get("ceil_mode", 0)))


def _average_pool(x: Sequence[Any], a: Attributes) -> Tensor:
    dims = len(a["kernel_shape"])
    data, padding = _padded(x[0], a, dims)
    counted = bool(a.get("count_include_pad", 0))
    if data is not x[0] and not counted:
        raise untrainable("AveragePool with uneven pads")
    function = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[dims - 1]
    return function(
        data, a["kernel_shape"], a.get("strides", [1] * dims), padding, bool(a.get("ceil_mode", 0)), counted
    )


def _batch_norm(x: Sequence[Any], a: Attributes) -> Tensor:
    return functional.batch_norm(x[0], x[3], x[4], x[1], x[2], False, 0.0, a.get("epsilon", 1e-5))


def _layer_norm(x: Sequence[Any], a: Attributes) -> Tensor:
    shape = x[0].shape[a.get("axis", -1) :]
    return functional.layer_norm(x[0], shape, x[1], x[2] if len(x) > 2 else None, a.get("epsilon", 1e-5))


def _group_norm(x: Sequence[Any], a: Attributes) -> Tensor:
    if x[1].numel() != x[0].shape[1]:
        raise untrainable("GroupNormalization with a scale a group, as before opset 21")
    return functional.group_norm(x[0], a["num_groups"], x[1], x[2], a.get("epsilon", 1e-5))


def _reduced(function: Callable[..., Tensor]) -> Operator:
    def run(x: Sequence[Any], a: Attributes) -> Tensor:
        axes = x[1].tolist() if len(x) > 1 and x[1] is not None else a.get("axes")
        if not axes:
            if a.get("noop_with_empty_axes", 0):
                return x[0]
            axes = list(range(x[0].dim()))
        return function(x[0], dim=tuple(axes), keepdim=bool(a.get("keepdims", 1)))

    return run


def _reshape(x: Sequence[Any], a: Attributes) -> Tensor:
    wanted = x[1].tolist()
    if not a.get("allowzero", 0):
        wanted = [x[0].shape[at] if size == 0 else size for at, size in enumerate(wanted)]
    return x[0].reshape(wanted)


def _flatten(x: Sequence[Any], a: Attributes) -> Tensor:
    axis = a.get("axis", 1) % (x[0].dim() + 1)
    rows = 1
    for size in x[0].shape[:axis]:
        rows *= size
    return x[0].reshape(rows, -1)


def _transpose(x: Sequence[Any], a: Attributes) -> Tensor:
    return x[0].permute(a.get("perm", list(reversed(range(x[0].dim())))))


def _slice(x: Sequence[Any], _: Attributes) -> Tensor:
    data, starts, ends = x[0], x[1].tolist(), x[2].tolist()
    axes = x[3].tolist() if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = x[4].tolist() if len(x) > 4 and x[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps):
        size = data.shape[axis]
        index = torch.arange(size, device=data.device)[slice(start, end, step)] if step > 0 else None
        if index is None:  # torch takes no negative step
            index = torch.tensor(list(range(size))[start : None if end < -size else end : step], device=data.device)
        data = data.index_select(axis, index)
    return data


def _gather(x: Sequence[Any], a: Attributes) -> Tensor:
    axis = a.get("axis", 0) % x[0].dim()
    index = torch.where(x[1] < 0, x[1] + x[0].shape[axis], x[1]).to(torch.int64)
    found = x[0].index_select(axis, index.reshape(-1))
    return found.reshape((*x[0].shape[:axis], *index.shape, *x[0].shape[axis + 1 :]))


def _axes(x: Sequence[Any], a: Attributes) -> list[int] | None:
    return x[1].tolist() if len(x) > 1 and x[1] is not None else a.get("axes")


def _unsqueeze(x: Sequence[Any], a: Attributes) -> Tensor:
    axes = _axes(x, a) or []
    rank, data = x[0].dim() + len(axes), x[0]
    for axis in sorted(axis % rank for axis in axes):
        data = data.unsqueeze(axis)
    return data


def _squeeze(x: Sequence[Any], a: Attributes) -> Tensor:
    axes = _axes(x, a)
    return x[0].squeeze(tuple(axes)) if axes else x[0].squeeze()


def _split(x: Sequence[Any], a: Attributes) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    if len(x) > 1 and x[1] is not None:
        return tuple(x[0].split(x[1].tolist(), axis))
    return tuple(x[0].split(-(-x[0].shape[axis] // a["num_outputs"]), axis))


def _expand(x: Sequence[Any], _: Attributes) -> Tensor:
    return x[0].expand(torch.broadcast_shapes(x[0].shape, tuple(x[1].tolist())))


def _constant_of_shape(x: Sequence[Any], a: Attributes) -> Tensor:
    value = a.get("value", torch.zeros(1))
    return value.reshape(()).expand(tuple(x[0].tolist())).clone().to(x[0].device)


def _shape(x: Sequence[Any], a: Attributes) -> Tensor:
    whole = list(x[0].shape)
    return torch.tensor(whole[a.get("start", 0) : a.get("end", len(whole))], dtype=torch.int64, device=x[0].device)


def _clip(x: Sequence[Any], _: Attributes) -> Tensor:
    low, high = (x[at] if len(x) > at else None for at in (1, 2))
    return torch.clamp(x[0], low, high) if low is not None or high is not None else x[0]


def _pad(x: Sequence[Any], a: Attributes) -> Tensor:
    mode = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate"}.get(a.get("mode", b"constant"))
    if mode is None or (len(x) > 3 and x[3] is not None):
        raise untrainable("Pad that wraps, or with axes")
    pads, rank = x[1].tolist(), x[0].dim()
    both = [p for at in reversed(range(rank)) for p in (pads[at], pads[at + rank])]
    if mode != "constant":  # torch pads the last axes alone there
        return functional.pad(x[0], both[: 2 * max(1, rank - 2)], mode=mode)
    return functional.pad(x[0], both, value=x[2].item() if len(x) > 2 and x[2] is not None else 0)


# The one table: what is not in it is told by name, and the graph is not trained.
OPERATORS: dict[str, Operator] = {
    "Abs": _each(torch.abs),
    "Add": _each(torch.add),
    "And": _each(torch.logical_and),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda x, a: x[0].to(DTYPES[a["to"]]),
    "Ceil": _each(torch.ceil),
    "Clip": _clip,
    "Concat": lambda x, a: torch.cat(list(x), dim=a["axis"]),
    "Constant": lambda _, a: a["value"],
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": _each(torch.cos),
    "Div": _each(_div),
    "Dropout": lambda x, _: x[0],
    "Einsum": lambda x, a: torch.einsum(a["equation"].decode(), *x),
    "Elu": lambda x, a: functional.elu(x[0], a.get("alpha", 1.0)),
    "Equal": _each(torch.eq),
    "Erf": _each(torch.erf),
    "Exp": _each(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _each(torch.floor),
    "Gather": _gather,
    "Gelu": lambda x, a: functional.gelu(x[0], approximate=a.get("approximate", b"none").decode()),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x, _: x[0].mean(dim=tuple(range(2, x[0].dim())), keepdim=True),
    "GlobalMaxPool": lambda x, _: x[0].amax(dim=tuple(range(2, x[0].dim())), keepdim=True),
    "Greater": _each(torch.gt),
    "GreaterOrEqual": _each(torch.ge),
    "GroupNormalization": _group_norm,
    "HardSigmoid": lambda x, a: torch.clamp(a.get("alpha", 0.2) * x[0] + a.get("beta", 0.5), 0, 1),
    "HardSwish": _each(functional.hardswish),
    "Identity": lambda x, _: x[0],
    "InstanceNormalization": lambda x, a: functional.instance_norm(
        x[0], weight=x[1], bias=x[2], eps=a.get("epsilon", 1e-5)
    ),
    "IsNaN": _each(torch.isnan),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda x, a: functional.leaky_relu(x[0], a.get("alpha", 0.01)),
    "Less": _each(torch.lt),
    "LessOrEqual": _each(torch.le),
    "Log": _each(torch.log),
    "LogSoftmax": lambda x, a: functional.log_softmax(x[0], dim=a.get("axis", -1)),
    "MatMul": _each(torch.matmul),
    "Max": _folded(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _folded(torch.minimum),
    "Mish": _each(functional.mish),
    "Mul": _each(torch.mul),
    "Neg": _each(torch.neg),
    "Not": _each(torch.logical_not),
    "Or": _each(torch.logical_or),
    "PRelu": lambda x, _: torch.where(x[0] < 0, x[0] * x[1], x[0]),
    "Pad": _pad,
    "Pow": _each(torch.pow),
    "Range": lambda x, _: torch.arange(x[0].item(), x[1].item(), x[2].item(), dtype=x[0].dtype, device=x[0].device),
    "Reciprocal": _each(torch.reciprocal),
    "ReduceL2": _reduced(lambda x, dim, keepdim: torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "Relu": _each(torch.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _each(torch.sigmoid),
    "Sin": _each(torch.sin),
    "Slice": _slice,
    "Softmax": lambda x, a: functional.softmax(x[0], dim=a.get("axis", -1)),
    "Softplus": _each(functional.softplus),
    "Split": _split,
    "Sqrt": _each(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _each(torch.sub),
    "Sum": _folded(torch.add),
    "Tanh": _each(torch.tanh),
    "Tile": lambda x, _: x[0].repeat(tuple(x[1].tolist())),
    "Transpose": _transpose,
    "Trilu": lambda x, a: (torch.triu if a.get("upper", 1) else torch.tril)(
        x[0], int(x[1].item()) if len(x) > 1 and x[1] is not None else 0
    ),
    "Unsqueeze": _unsqueeze,
    "Where": _each(torch.where),
}
