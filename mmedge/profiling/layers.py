"""Where a model's time goes: its backend's own profile by layer, grouped by the modality that a layer serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mmedge import backends
from mmedge.profiling.record import LayerRecord

_RUNS = 50


def by_layer(
    file: Path, backend: str, inputs: Mapping[str, np.ndarray], threads: int, runs: int = _RUNS
) -> tuple[list[LayerRecord], str]:
    """One row a layer in order, and what its times are. No rows: the backend told of none, and the sentence says so."""
    times = backends.find(backend).layer_times(file, inputs, threads, runs)
    total = sum(layer.mean_us for layer in times.layers) or 1.0
    rows = [LayerRecord(**asdict(layer), share=layer.mean_us / total) for layer in times.layers]
    return rows, times.basis if rows else f"no layer was timed by {times.basis}"


def by_branch(rows: list[LayerRecord]) -> dict[str, float]:
    """{branch: share of the time}, largest first."""
    shares: dict[str, float] = {}
    for row in rows:
        shares[row.branch] = shares.get(row.branch, 0.0) + row.share
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
