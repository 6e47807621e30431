"""The float graph that INT8 is made of, and that single layers go back to: it computes the same and is easier to quantize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmedge.graph import joined, rounding, structure
from mmedge.graph.smoothing import relieve, smooth
from mmedge.graph.wiring import Wiring


@dataclass(frozen=True)
class Prepared:
    """A float graph to quantize. ``attention``: whether its weighted layers alone bear 8 bits; ``powers``: see ``placement.Form``."""

    graph: Path
    attention: bool
    powers: Mapping[str, np.ndarray] = field(default_factory=dict)


def prepared(graph: Path, target: Path, inputs: Sequence[Mapping[str, np.ndarray]]) -> Prepared:
    """Move outliers of a graph with attention into its weights, join its projections, and look at what its layers read.

    ``inputs``: {input: [1, *shape]} of calibration samples. ``target`` is written then; of another graph it is the graph as it is.
    """
    import onnx

    if not structure.has_attention(onnx.load(graph, load_external_data=False)):
        return Prepared(graph, attention=False)
    relieve(graph, target, inputs)
    smooth(target, target, inputs)
    model = onnx.load(target)
    if joined.join(model):
        onnx.save(model, target)
    return Prepared(target, attention=True, powers=rounding.powers(model, structure.weighted(Wiring(model)), inputs))
