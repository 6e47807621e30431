"""Channels between two layers that have one range, where a few large ones would leave the others few codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmedge.graph import ranges, structure
from mmedge.graph.placement import output_axis
from mmedge.graph.wiring import Wiring, integer_of

# The least that a channel is taken for, as a share of the largest one; and how many times the middle one that must be for two
# layers to be changed.
_LEAST, _UNLIKE = 0.02, 2.0


@dataclass(frozen=True)
class Pair:
    """Two layers of which the second alone reads what the first gives, by ``tensor``. ``bias``: the first one's stored one;
    ``inputs``: the axis of the second one's weights that its inputs are, None where it is depthwise."""

    first: Any
    bias: str | None
    tensor: str
    second: Any
    inputs: int | None


def equalise(model: Any, inputs: Sequence[Mapping[str, np.ndarray]]) -> int:
    """Divide the channels between two layers so that they have one range, and multiply the weights behind, in place.

    A scale an output channel takes up the factor in the first layer, and a depthwise second one, at no cost; the weights of
    another second layer get half of it. A ReLU passes factors on; a clip would need a bound a channel. Returns how many pairs
    were changed; ``inputs``: calibration samples, {input: [1, *shape]} each. Source: Nagel et al. 2019, "Data-free quantization through weight
    equalization and bias correction", with ranges of activations in place of those of weights, which have a scale a channel here.
    """
    from onnx import numpy_helper

    wiring = Wiring(model)
    found = pairs(wiring)
    if not found:
        return 0
    values = ranges.collected(model, {pair.tensor: _axis(pair.first) for pair in found}, inputs)
    stored: dict[str, np.ndarray] = {}

    def scaled(name: str, axis: int, by: np.ndarray) -> None:
        value = stored.get(name, wiring.value(name))
        stored[name] = (value * by.reshape([-1 if each == axis else 1 for each in range(value.ndim)])).astype(
            np.float32
        )

    changed = 0
    for pair in found:
        before, behind = pair.first.input[1], pair.second.input[1]
        factor = _factors(pair, values[pair.tensor].largest, wiring.value(behind))
        if factor is None:
            continue
        changed += 1
        scaled(before, output_axis(pair.first, wiring.value(before)), 1 / factor)
        if pair.bias is not None:
            scaled(pair.bias, wiring.value(pair.bias).ndim - 1, 1 / factor)
        if pair.inputs is None:
            scaled(behind, 0, np.repeat(factor, wiring.constants[behind].dims[0] // factor.size))
        else:
            scaled(behind, pair.inputs, factor)
    for tensor in model.graph.initializer:
        if tensor.name in stored:
            tensor.CopyFrom(numpy_helper.from_array(stored[tensor.name], tensor.name))
    return changed


def pairs(wiring: Wiring) -> list[Pair]:
    """The pairs of a graph whose weights no other node reads, in its order."""
    layers = {node.output[0]: node for node in structure.weighted(wiring)}  # a foreign graph need not name its nodes
    given = {value.name for value in wiring.model.graph.output}
    found = []
    for node in layers.values():
        place = structure.bias_of(node, wiring)
        tensor, bias = (place[0] if place else node).output[0], place[0].input[place[1]] if place else None
        reader = _only(tensor, wiring, given)
        if reader is not None and reader.op_type == "Relu":
            tensor = reader.output[0]
            reader = _only(tensor, wiring, given)
        if reader is None or reader.output[0] not in layers or reader.input[0] != tensor or not _takes(reader, wiring):
            continue
        own = [node.input[1], reader.input[1], *([bias] if bias else [])]
        if all(len(wiring.readers[name]) == 1 for name in own):
            found.append(Pair(node, bias, tensor, reader, _inputs_axis(reader, wiring)))
    return found


def _only(tensor: str, wiring: Wiring, given: set[str]) -> Any:
    readers = wiring.readers.get(tensor, [])
    return readers[0] if len(readers) == 1 and tensor not in given else None


def _groups(node: Any) -> int:
    return integer_of(node, "group", 1)


def _takes(node: Any, wiring: Wiring) -> bool:
    """Whether each output of a layer reads all inputs, or one."""
    return node.op_type != "Conv" or _groups(node) == 1 or wiring.constants[node.input[1]].dims[1] == 1


def _inputs_axis(node: Any, wiring: Wiring) -> int | None:
    if node.op_type == "Conv":
        return 1 if _groups(node) == 1 else None
    return 1 - output_axis(node, wiring.value(node.input[1]))


def _axis(node: Any) -> int:
    return 1 if node.op_type == "Conv" else -1


def _factors(pair: Pair, largest: np.ndarray, behind: np.ndarray) -> np.ndarray | None:
    """What each channel is divided by; None where the channels are alike, or nothing is known of them."""
    if not largest.size or not np.isfinite(largest).all() or not largest.max() > _UNLIKE * np.median(largest) > 0:
        return None
    reach = np.maximum(largest / largest.max(), _LEAST)
    if pair.inputs is None:
        return reach
    weights = np.abs(behind).max(axis=tuple(axis for axis in range(behind.ndim) if axis != pair.inputs))
    found: np.ndarray = np.sqrt(reach / np.maximum(weights / weights.max(), _LEAST))
    return found
