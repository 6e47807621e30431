"""Where a model's time goes: its backend's own profile by layer, grouped by the modality that a layer serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from mmedge import backends
from mmedge.artifact import GRAPH
from mmedge.backends import Backend, LayerTimes, onnxruntime_cpu, writing
from mmedge.backends.writing import Writing
from mmedge.leftovers import scratch
from mmedge.profiling.record import LayerRecord

_RUNS = 50


def by_layer(
    file: Path, backend: str, inputs: Mapping[str, np.ndarray], threads: int, runs: int = _RUNS
) -> tuple[list[LayerRecord], str]:
    """One row a layer in order, and what its times are. No rows: the backend told of none, and the sentence says so."""
    how = writing.described(file)
    if how is None:
        times = backends.find(backend).layer_times(file, inputs, threads, runs)
    else:
        times = _of_parts(file, how, backends.find(backend), inputs, threads, runs)
    total = sum(layer.mean_us for layer in times.layers) or 1.0
    rows = [LayerRecord(**asdict(layer), share=layer.mean_us / total) for layer in times.layers]
    return rows, times.basis if rows else f"no layer was timed by {times.basis}"


def _of_parts(
    file: Path, how: Writing, backend: Backend, inputs: Mapping[str, np.ndarray], threads: int, runs: int
) -> LayerTimes:
    """Those of what runs once a text, and of one step, whose branch is ``step``; an engine's graph lies beside it."""
    graph = file.with_name(GRAPH) if how.files else file
    feed = writing.feeds(graph, how, onnxruntime_cpu.session)(inputs, 0)
    step = {name: x for name, x in feed.items() if name not in inputs}
    with scratch() as folder:
        if how.files:
            parts = [file.with_name(name) for name in how.files]
        else:
            parts = [folder / "beginning.onnx", folder / "step.onnx"]
            for part, content in zip(parts, writing.graphs_of(file, how)):
                part.write_bytes(content)
        once, each = (
            backend.layer_times(part, given, threads, runs) for part, given in zip(parts, (dict(inputs), step))
        )
    layers = [*once.layers, *(replace(layer, branch="step") for layer in each.layers)]
    return LayerTimes(layers, f"{once.basis}; of the step, which runs once a token, one")


def by_branch(rows: list[LayerRecord]) -> dict[str, float]:
    """{branch: share of the time}, largest first."""
    shares: dict[str, float] = {}
    for row in rows:
        shares[row.branch] = shares.get(row.branch, 0.0) + row.share
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
