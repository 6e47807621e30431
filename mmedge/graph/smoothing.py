"""A float graph that computes the same and is easier to quantize: outliers of a few channels go into the weights behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.graph import ranges, structure
from mmedge.graph.placement import output_axis
from mmedge.graph.qdq import SMOOTHED
from mmedge.graph.wiring import Wiring, drop_unread

# How much of the outliers moves from activations, which have one scale, into weights, which have one a channel.
_SHARE = 0.5
# How many times as large as all but one in a hundred a channel must be for a multiplication that takes it down.
_FAR = 3.0


def smooth(graph: Path, target: Path, inputs: Sequence[Mapping[str, np.ndarray]]) -> int:
    """Divide what layer norms give by a factor a channel and multiply the weights behind by it, which needs no node.

    Where others read the norm, too, as where norms stand behind the sums, a multiplication divides for the layers, which takes half
    the time of a second norm. Returns how many norms are divided; the graph is written as it is where none is. Source: Xiao et
    al. 2023, "SmoothQuant".
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    wiring = Wiring(model)
    norms = structure.norms_of(wiring, structure.weighted(wiring))
    given = {value.name for value in model.graph.output}
    values = ranges.collected(model, dict.fromkeys(norms, -1), inputs)

    def store(name: str, value: np.ndarray) -> str:
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    for name, readers in norms.items():
        weights = [wiring.value(node.input[1]) for node in readers]
        inputs_last = [output_axis(node, weight) == 0 for node, weight in zip(readers, weights)]
        reach = np.max([np.abs(w).max(axis=0 if last else 1) for w, last in zip(weights, inputs_last)], axis=0)
        factor = np.maximum(values[name].largest, 1e-5) ** _SHARE / np.maximum(reach, 1e-5) ** (1 - _SHARE)
        factor = np.clip(factor / np.exp(np.log(factor).mean()), 1e-3, 1e3)
        norm = wiring.made_by[name]
        if len(readers) < len(wiring.readers[name]) or name in given:
            _divided(model, norm, readers, store(f"{name}.by", 1 / factor))
        else:
            for place in range(1, len(norm.input)):
                norm.input[place] = store(f"{norm.name}.smooth.{place}", wiring.value(norm.input[place]) / factor)
        for node, weight, last in zip(readers, weights, inputs_last):
            node.input[1] = store(
                f"{node.input[1]}{SMOOTHED}{node.name}", weight * (factor if last else factor[:, None])
            )
    drop_unread(model)
    onnx.save(model, target)
    return len(norms)


def relieve(graph: Path, target: Path, inputs: Sequence[Mapping[str, np.ndarray]]) -> int:
    """Divide the few channels of a linear layer's input that are far larger than all others, and multiply its weights by it.

    Where no norm can take up the factor it is a multiplication, which only such inputs get: behind the GELU of a trained
    transformer a channel or two are five times as large as the rest, which would have a fifth of the codes. Returns how
    many layers have one; the graph is written as it is where none has. Source: "massive activations", Sun et al. 2024.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(graph)
    wiring = Wiring(model)
    layers = {node.name: node for node in structure.weighted(wiring) if node.op_type != "Conv"}
    alone = {
        node.input[0]: node
        for node in layers.values()
        if len(wiring.readers[node.input[0]]) == 1 and node.input[0] in wiring.made_by
    }
    values = ranges.collected(model, dict.fromkeys(alone, -1), inputs)
    nodes: dict[str, Any] = {}
    for name, node in alone.items():
        largest, weight = values[name].largest, wiring.value(node.input[1])
        usual = float(np.quantile(largest, 0.99, method="lower")) if largest.size else 0.0
        last = output_axis(node, weight) == 0
        if not 0 < usual * _FAR < largest.max() or largest.size != weight.shape[1 if last else 0]:
            continue
        factor = np.maximum(largest / usual, 1).astype(np.float32)
        scaled = f"{node.input[1]}{SMOOTHED}{node.name}"
        for stored, value in ((f"{name}.by", 1 / factor), (scaled, weight * (factor if last else factor[:, None]))):
            model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), stored))
        nodes[node.name] = helper.make_node("Mul", [name, f"{name}.by"], [f"{name}.relieved"], f"{name}.relieved")
        node.input[0], node.input[1] = f"{name}.relieved", scaled
    for name, made in nodes.items():
        at = next(number for number, node in enumerate(model.graph.node) if node.name == name)
        model.graph.node.insert(at, made)
    drop_unread(model)
    onnx.save(model, target)
    return len(nodes)


def _divided(model: Any, norm: Any, readers: Sequence[Any], by: str) -> None:
    """What ``norm`` gives times the stored tensor ``by``, for ``readers`` alone."""
    from onnx import helper

    at = next(number for number, node in enumerate(model.graph.node) if node.name == norm.name)
    output = f"{norm.output[0]}.smooth"
    model.graph.node.insert(at + 1, helper.make_node("Mul", [norm.output[0], by], [output], output))
    for node in readers:
        node.input[0] = output
