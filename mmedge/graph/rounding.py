"""Codes of a layer's weights that together keep its outputs, where each alone would be rounded to the nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.graph.qdq import Wiring

# Of the mean power of the inputs, what is added to each, so that those that were never seen do not decide; and how many
# inputs are rounded before what they changed is taken from all the others.
_DAMPING, _BLOCK = 0.01, 128
# Of one sample, the places of a picture that are looked at; and the most inputs of an output, whose table of products grows
# with the square.
_PLACES, _WIDEST = 256, 4096


def compensated(weight: np.ndarray, scale: np.ndarray, power: np.ndarray, most: int) -> np.ndarray:
    """int8 codes [outputs, inputs] of float weights: each input's error is made up for by the weights that follow.

    ``scale``: [outputs]. ``power``: [inputs, inputs], the sum of x xT over calibration inputs x. Source: Frantar et al.
    2023, "GPTQ", with inputs in the order of their power.
    """
    inputs = weight.shape[1]
    order = np.argsort(-np.diag(power), kind="stable")
    left, step = weight[:, order].astype(np.float64), scale[:, None].astype(np.float64)
    damped = power[np.ix_(order, order)].astype(np.float64)
    damped[np.diag_indices(inputs)] += max(_DAMPING * float(np.diag(damped).mean()), 1e-12)
    # The upper Cholesky factor of the inverse tells, row by row, how the later weights make up for an earlier one.
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    codes = np.empty(left.shape, np.int8)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = np.empty((len(left), end - start))
        for at in range(start, end):
            rounded = np.clip(np.round(left[:, at : at + 1] / step), -most, most)
            codes[:, order[at]] = rounded[:, 0]
            errors[:, at - start] = (left[:, at] - (rounded * step)[:, 0]) / factor[at, at]
            left[:, at + 1 : end] -= np.outer(errors[:, at - start], factor[at, at + 1 : end])
        left[:, end:] -= errors @ factor[start:end, end:]
    return codes


def codes_of(weight: np.ndarray, axis: int, scale: np.ndarray, power: np.ndarray, most: int) -> np.ndarray:
    """``compensated`` of a layer's weights as they are stored; ``axis``: of its outputs; ``power``: see ``powers``."""
    rows = np.moveaxis(weight, axis, 0)
    by_group = rows.reshape(len(power), -1, power.shape[-1])
    scales = scale.reshape(len(power), -1)
    codes = np.stack([compensated(*each, most) for each in zip(by_group, scales, power)])
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
    found: dict[str, np.ndarray] = {}
    for sample in inputs:
        values = {**sample, **run(sample)}
        for node in wanted:
            x = _read(node, values[node.input[0]], wiring, random)  # [groups, inputs, times]
            product = x @ x.transpose(0, 2, 1)
            found[node.name] = found[node.name] + product if node.name in found else product
    return found


def _width(node: Any, wiring: Wiring) -> int | None:
    """How many values an output of a layer reads; None where it is not to be looked at."""
    dims = list(wiring.constants[node.input[1]].dims)
    if node.op_type == "Conv":
        pads = next((attribute.s for attribute in node.attribute if attribute.name == "auto_pad"), b"NOTSET")
        width = int(np.prod(dims[1:])) if len(dims) == 4 and pads == b"NOTSET" else None
    else:
        across = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        width = dims[1 if across else 0]
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
