"""Codes of a layer's weights that together keep its outputs, where each alone would be rounded to the nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.graph.structure import outputs_first
from mmedge.graph.wiring import Wiring

# Of the mean power of the inputs, what is added to each, so that those that were never seen do not decide; and how many
# inputs are rounded before what they changed is taken from all the others.
_DAMPING, _BLOCK = 0.01, 128
# Of one sample, the places of a picture that are looked at; the most inputs of an output, whose table of products grows with
# the square; and how many readings are kept before they are multiplied.
_PLACES, _WIDEST, _KEPT = 64, 4096, 1024


def compensated(weight: np.ndarray, scale: np.ndarray, power: np.ndarray, most: int) -> np.ndarray:
    """int8 codes [groups, outputs, inputs] of float weights: each input's error is made up for by the weights that follow.

    What is zero stays zero. ``scale``: [groups, outputs]. ``power``: [groups, inputs, inputs], the sum of x xT over calibration inputs x. Source:
    Frantar et al. 2023, "GPTQ", with inputs in the order of their power.
    """
    inputs = weight.shape[-1]
    diagonal = np.diagonal(power, axis1=1, axis2=2)
    order = np.argsort(-diagonal, axis=1, kind="stable")  # [groups, inputs]
    left = np.take_along_axis(weight, order[:, None], 2).astype(np.float64)
    there = left != 0
    step = scale[:, :, None].astype(np.float64)
    damped = np.take_along_axis(np.take_along_axis(power, order[:, :, None], 1), order[:, None], 2).astype(np.float64)
    damped[:, range(inputs), range(inputs)] += np.maximum(_DAMPING * diagonal.mean(axis=1), 1e-12)[:, None]
    # The upper Cholesky factor of the inverse tells, row by row, how the later weights make up for an earlier one.
    factor = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    codes = np.empty(left.shape, np.int8)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = np.empty((*left.shape[:2], end - start))
        for at in range(start, end):
            column = left[:, :, at : at + 1]
            rounded = np.clip(np.round(column / step), -most, most) * there[:, :, at : at + 1]
            codes[:, :, at] = rounded[:, :, 0]
            error = (column - rounded * step) / factor[:, None, at : at + 1, at]
            left[:, :, at + 1 : end] -= error * factor[:, None, at, at + 1 : end]
            errors[:, :, at - start] = error[:, :, 0]
        left[:, :, end:] -= errors @ factor[:, start:end, end:]
    found = np.empty_like(codes)
    np.put_along_axis(found, np.broadcast_to(order[:, None], codes.shape), codes, 2)
    return found


def codes_of(weight: np.ndarray, axis: int, scale: np.ndarray, power: np.ndarray, most: int) -> np.ndarray:
    """``compensated`` of a layer's weights as they are stored; ``axis``: of its outputs; ``power``: see ``powers``."""
    rows = np.moveaxis(weight, axis, 0)
    by_group = rows.reshape(len(power), -1, power.shape[-1])
    codes = compensated(by_group, scale.reshape(len(power), -1), power, most)
    return np.ascontiguousarray(np.moveaxis(codes.reshape(rows.shape), 0, axis))


def powers(model: Any, layers: Sequence[Any], inputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """{layer: float32 [groups, inputs, inputs], the sum of x xT over what one output of it reads}, in one pass.

    Layers whose outputs read more than ``_WIDEST`` values, and convolutions of other than two axes, are left out.
    """
    import onnx

    wiring, random = Wiring(model), np.random.default_rng(0)
    wanted = [node for node in layers if _width(node, wiring) is not None]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    shown = {value.name for value in [*model.graph.output, *model.graph.input]}
    names = dict.fromkeys(node.input[0] for node in wanted)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in shown)
    run = onnxruntime_cpu.session(watched.SerializeToString())
    # Linear layers that read the same share one table.
    first = {node.name if node.op_type == "Conv" else node.input[0]: node for node in reversed(wanted)}
    products = {key: _Products() for key in first}
    for sample in inputs:
        values = {**sample, **run(sample)}
        for key, node in first.items():
            products[key].take(_read(node, values[node.input[0]], wiring, random))
    found = {key: each.total() for key, each in products.items()}
    return {node.name: found[node.name if node.op_type == "Conv" else node.input[0]] for node in wanted}


class _Products:
    """The sum of x xT over readings x, [groups, inputs, times] each, many of which are multiplied at once."""

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []
        self.sum: np.ndarray | None = None

    def take(self, x: np.ndarray) -> None:
        self.kept.append(x)
        if sum(each.shape[-1] for each in self.kept) >= _KEPT:
            self.total()

    def total(self) -> np.ndarray:
        if self.kept:
            x = np.concatenate(self.kept, axis=-1)
            product = x @ x.transpose(0, 2, 1)
            self.sum, self.kept = product if self.sum is None else self.sum + product, []
        assert self.sum is not None
        return self.sum


def _width(node: Any, wiring: Wiring) -> int | None:
    """How many values an output of a layer reads; None where it is not to be looked at."""
    dims = list(wiring.constants[node.input[1]].dims)
    if node.op_type == "Conv":
        pads = next((attribute.s for attribute in node.attribute if attribute.name == "auto_pad"), b"NOTSET")
        width = int(np.prod(dims[1:])) if len(dims) == 4 and pads == b"NOTSET" else None
    else:
        width = dims[1 if outputs_first(node) else 0]
    return width if width is not None and width <= _WIDEST else None


def _read(node: Any, value: np.ndarray, wiring: Wiring, random: np.random.Generator) -> np.ndarray:
    """float32 [groups, inputs, times]: what an output of a layer reads, each time that it is computed."""
    if node.op_type != "Conv":
        return np.ascontiguousarray(value.reshape(-1, value.shape[-1]).T[None], np.float32)
    from torch import from_numpy
    from torch.nn import functional

    given = {attribute.name: attribute for attribute in node.attribute}

    def ints(name: str, default: list[int]) -> list[int]:
        return list(given[name].ints) if name in given else default

    top, left, bottom, right = ints("pads", [0] * 4)
    kernel = list(wiring.constants[node.input[1]].dims)[2:]
    padded = functional.pad(from_numpy(np.ascontiguousarray(value, np.float32)), (left, right, top, bottom))
    columns = functional.unfold(padded, kernel, ints("dilations", [1, 1]), 0, ints("strides", [1, 1]))
    groups = given["group"].i if "group" in given else 1
    found: np.ndarray = columns[0].reshape(groups, -1, columns.shape[-1]).numpy()
    if found.shape[-1] > _PLACES:
        found = found[:, :, random.integers(found.shape[-1], size=_PLACES)]
    return found
