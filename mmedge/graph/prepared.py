"""The float graph that INT8 is made of, and that single layers go back to: it computes the same and is easier to quantize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.graph import equalising, folded, joined, placement, reduced, rounding, standing_in, structure
from mmedge.graph.placement import Form
from mmedge.graph.smoothing import relieve, smooth
from mmedge.graph.wiring import Wiring
from mmedge.leftovers import scratch

# Calibration samples that two forms are held against each other on.
_FEW = 16


@dataclass(frozen=True)
class Prepared:
    """A float graph to quantize. ``attention``: whether its weighted layers alone bear 8 bits; ``powers``: see ``placement.Form``."""

    graph: Path
    attention: bool
    powers: Mapping[str, np.ndarray] = field(default_factory=dict)


def prepared(graph: Path, target: Path, inputs: Sequence[Mapping[str, np.ndarray]]) -> Prepared:
    """Let weights take up factors behind them, give channels between two layers one range, where codes then lose less, and absent
    inputs what float makes of them; in a graph with attention move outliers into the weights, join projections, and look at what layers read.

    ``inputs``: {input: [1, *shape]} of calibration samples. ``target`` is written where anything is changed; else it is the
    graph as it is.
    """
    import onnx

    model = onnx.load(graph)
    if folded.fold(model):
        onnx.save(model, target)
        graph = target
    graph = _standing_in(_equal(graph, target, inputs), target, inputs)
    model = onnx.load(graph)
    if not structure.has_attention(model):
        return Prepared(graph, attention=False)
    if reduced.keep_axes(model):
        onnx.save(model, target)
        graph = target
    relieve(graph, target, inputs)
    smooth(target, target, inputs)
    model = onnx.load(target)
    if joined.join(model):
        onnx.save(model, target)
    return Prepared(target, attention=True, powers=rounding.powers(model, structure.weighted(Wiring(model)), inputs))


def _equal(graph: Path, target: Path, inputs: Sequence[Mapping[str, np.ndarray]]) -> Path:
    """The graph to go on with: ``target``, which is written, where channels of one range pay."""
    import onnx

    model = onnx.load(graph)
    try:
        if not equalising.equalise(model, inputs):
            return graph
        onnx.save(model, target)
        return target if _loses_less(target, graph, inputs) else graph
    except Exception:  # a graph, or samples, that ONNX Runtime does not take: the quantizer tells of them
        return graph


def _standing_in(graph: Path, target: Path, inputs: Sequence[Mapping[str, np.ndarray]]) -> Path:
    """The graph to go on with: ``target``, which is written, where something stands in for an absent input."""
    import onnx

    model = onnx.load(graph)
    if not inputs or not standing_in.fix(model, inputs[0]):
        return graph
    onnx.save(model, target)
    return target


def _loses_less(graph: Path, other: Path, inputs: Sequence[Mapping[str, np.ndarray]]) -> bool:
    """Whether the outputs of the ``graph`` change less by the nearest codes than those of the ``other``, on some of the samples."""
    few, expected, errors = inputs[:_FEW], list[np.ndarray](), []
    for each in (other, graph):
        with scratch() as folder:
            placement.int8(each, folder / "int8.onnx", few, Form())
            run, own = onnxruntime_cpu.session(folder / "int8.onnx"), onnxruntime_cpu.session(other)
            expected = expected or [np.concatenate([x.ravel() for x in own(sample).values()]) for sample in few]
            found = [np.concatenate([x.ravel() for x in run(sample).values()]) for sample in few]
        errors.append(float(sum(np.square(a - b).sum() for a, b in zip(expected, found))))
    return errors[1] < errors[0]
