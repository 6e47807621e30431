"""Mixed precision by measurement: which layers lose what in INT8, and the fewest that must be FP32 to hold the budget.

The layers are those of a finished Q/DQ graph; taking one back to float removes its pairs, and nothing is calibrated
again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.artifact import hash_json, sha256_of, write_json
from mmedge.graph import precision, qdq
from mmedge.graph.qdq import QuantizedLayer
from mmedge.leftovers import scratch
from mmedge.progress import Progress

# Of the time that a search may take, the most that is spent on measuring one group after the other.
_SENSITIVITY_SHARE = 0.6


@dataclass(frozen=True)
class LayerGroup:
    """Layers that are judged together: one, or neighbours of one branch where there are too many to judge each."""

    label: str
    branch: str
    layers: tuple[QuantizedLayer, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers)


def distance(expected: np.ndarray, actual: np.ndarray) -> float:
    """Power of the difference over the power of the signal about its mean: 0 is equal, 1 is noise. [N, outputs] each.

    Rows where either is not finite are left out where both are alike there; where they are not, or sizes differ, it is
    at least noise.
    """
    if expected.shape != actual.shape:
        return 1.0
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    finite = (np.isfinite(expected) & np.isfinite(actual)).all(axis=1)
    alike = np.array_equal(expected[~finite], actual[~finite], equal_nan=True)
    expected, actual = expected[finite], actual[finite]
    if not len(expected):
        return 0.0 if alike else 1.0
    power = float(((expected - expected.mean(axis=0)) ** 2).sum()) or 1.0
    value = float(((expected - actual) ** 2).sum()) / power
    return value if alike else max(value, 1.0)


def search(
    quantized: Path,
    target: Path,
    *,
    reference: Path,
    outputs: Callable[[Path], np.ndarray],
    overshoot: Callable[[Path], float],
    progress: Progress,
    seconds: float,
    cache: Path,
) -> dict[str, Any]:
    """Write the Q/DQ graph with the fewest sensitive layers in FP32 that is inside the budget; returns the measurements.

    First every group alone is quantized and its error on the outputs measured (``distance``); then the groups go back
    to FP32 from the worst on, and bisection finds how many must: ``overshoot(graph) <= 0`` is inside the budget. Layers
    that the runtime computes in float anyway go back first, since they gain nothing. ``found`` is False, and nothing
    written, where only FP32 holds the budget, the graph holds it as it is, or the time ended first. What was measured
    stands in ``cache`` and is not measured again by the next call.
    """
    import onnx

    began = time.monotonic()
    model, float_model = onnx.load(quantized), onnx.load(reference)
    expected = outputs(reference)
    known = _Known(cache, [sha256_of(quantized), sha256_of(reference), str(expected.shape)])
    layers = qdq.layers(model)
    floating = qdq.prove(quantized, precision.optimized(quantized)).float_layers
    free = [layer.name for layer in layers if layer.label in floating]
    judged = [layer for layer in layers if layer.name not in free]

    def measured(kind: str, back: Collection[str], function: Callable[[Path], float]) -> float:
        def compute() -> float:
            with scratch() as folder:
                onnx.save(qdq.restored(model, float_model, back), folder / "part.onnx")
                return function(folder / "part.onnx")

        return known.get([kind, sorted(back)], compute)

    every = [layer.name for layer in layers]

    def error(names: Collection[str]) -> float:
        """Of the outputs, where only these layers are quantized."""
        return measured(
            "error", [name for name in every if name not in names], lambda graph: distance(expected, outputs(graph))
        )

    one = time.monotonic()
    if judged:
        error([judged[0].name])
    one = max(time.monotonic() - one, 1e-3)
    groups = grouped(judged, max(2, int(_SENSITIVITY_SHARE * seconds / one)))
    branches = {}
    for branch in dict.fromkeys(layer.branch for layer in layers):
        branches[branch] = error([layer.name for layer in layers if layer.branch == branch])
    errors = []
    for number, group in enumerate(groups):
        progress.step("sensitivity of layers", number, len(groups), group.label)
        errors.append(error(group.names))
        if time.monotonic() - began > seconds:
            break
    # Groups that the time did not suffice for count as the least sensitive.
    errors += [0.0] * (len(groups) - len(errors))
    order = sorted(range(len(groups)), key=lambda index: -errors[index])

    def back(count: int) -> list[str]:
        return [*free, *(name for index in order[:count] for name in groups[index].names)]

    low, high, tried = -1, len(groups), 0  # low misses the budget; high holds it: all in FP32
    while high - low > 1 and time.monotonic() - began <= seconds:
        middle = (low + high) // 2 if low >= 0 else 0
        progress.step("mixed precision", tried, max(1, len(groups).bit_length() + 1), f"{middle} groups in FP32")
        tried += 1
        if measured("overshoot", back(middle), overshoot) <= 0:
            high = middle
        else:
            low = middle
    ended = high - low > 1
    found = high < len(groups) and bool(back(high))
    if found:
        onnx.save(qdq.restored(model, float_model, back(high)), target)
    taken = set(back(high)) if found else set()
    return {
        "found": found,
        "said": _said(ended, found, high, seconds),
        "groups": [
            {
                "label": group.label,
                "branch": group.branch,
                "kind": group.layers[0].kind if len(group.layers) == 1 else f"{len(group.layers)} layers",
                "error": error_,
                "fp32": set(group.names) <= taken,
            }
            for group, error_ in zip(groups, errors)
        ],
        "branches": branches,
        "float_anyway": floating,
        "int8_layers": len(layers) - len(taken) if found else 0,
        "layers": len(layers),
        "evaluations": known.computed,
        "seconds": round(time.monotonic() - began, 1),
    }


def _said(ended: bool, found: bool, back: int, seconds: float) -> str:
    if ended:
        return f"the time of {seconds:g} s ended first"
    if not found:
        return "no layer need go back" if back == 0 else "only FP32 holds the budget"
    return "inside the budget"


def grouped(layers: Sequence[QuantizedLayer], most: int) -> list[LayerGroup]:
    """At most about ``most`` groups: a layer each, or neighbours of the same branch together."""
    size = -(-len(layers) // most) if layers else 1
    groups: list[LayerGroup] = []
    for branch in dict.fromkeys(layer.branch for layer in layers):
        of_branch = [layer for layer in layers if layer.branch == branch]
        for start in range(0, len(of_branch), size):
            part = tuple(of_branch[start : start + size])
            label = part[0].label if len(part) == 1 else f"{part[0].label} … {part[-1].label}"
            groups.append(LayerGroup(label, branch, part))
    return groups


class _Known:
    """Numbers that were measured before, in a file that is written after each."""

    def __init__(self, path: Path, about: list[str]) -> None:
        self.path, self.about, self.computed = path, about, 0
        self.values: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    def get(self, key: list[Any], compute: Callable[[], float]) -> float:
        name = hash_json([self.about, key])[:24]
        if name not in self.values:
            self.values[name] = compute()
            self.computed += 1
            write_json(self.path, self.values)
        return self.values[name]
