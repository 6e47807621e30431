"""What a graph is calibrated on: training samples spread over the classes, each with all its modalities or a subset."""

from __future__ import annotations

import numpy as np

from mmedge.data.samples import Samples
from mmedge.spec import subsets


def calibration_rows(train: Samples, count: int, seed: int) -> np.ndarray:
    """int64 rows of the training split, spread evenly over the classes."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train))
    if train.targets.dtype.kind == "i":
        targets = train.targets[order]
        rank = np.zeros(len(order), np.int64)
        for label in np.unique(targets):
            rank[targets == label] = np.arange((targets == label).sum())
        order = order[np.argsort(rank, kind="stable")]
    return order[:count]


def calibration_inputs(train: Samples, rows: np.ndarray, seed: int) -> list[dict[str, np.ndarray]]:
    """Paired calibration: each sample with all its modalities at once, a quarter of them as a random subset."""
    names = tuple(train.inputs)
    rng = np.random.default_rng(seed)
    proper = subsets(names)[:-1]
    inputs = []
    for number, row in enumerate(rows):
        present = train.present[row]
        if number % 4 == 3 and proper:
            kept = present & np.array([name in proper[rng.integers(len(proper))] for name in names])
            present = kept if kept.any() else present
        inputs.append(
            {**{name: np.array(x[row : row + 1]) for name, x in train.inputs.items()}, "present": present[None]}
        )
    return inputs
