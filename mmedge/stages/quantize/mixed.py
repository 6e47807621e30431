"""Mixed precision by measurement: which layers lose what in INT8, and the fewest that must be FP32 to hold the budget.

The layers are those of a finished Q/DQ graph; taking one back to float removes its pairs, and nothing is calibrated
again.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from mmedge.artifact import hash_json, remembered, sha256_of
from mmedge.graph import precision, qdq
from mmedge.graph.counts import macs_by_node
from mmedge.graph.qdq import QuantizedLayer
from mmedge.leftovers import scratch
from mmedge.progress import Progress
from mmedge.report.schema import LayerGroupRecord, SensitivityRecord
from mmedge.stages.preference import LOOKS

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


@dataclass(frozen=True)
class Search:
    """What is searched: a Q/DQ graph and its FP32, ``outputs(graph)``, and the budget, which ``overshoot(graph) <= 0`` holds.

    ``seconds``: the most that it may take. What was measured stands in the folder ``cache``, and is not measured again.
    """

    quantized: Path
    reference: Path
    outputs: Callable[[Path], np.ndarray]
    overshoot: Callable[[Path], float]
    progress: Progress
    seconds: float
    cache: Path


def search(problem: Search, target: Path) -> SensitivityRecord:
    """Write the Q/DQ graph with the fewest sensitive layers in FP32 that is inside the budget; returns the measurements.

    First every group alone is quantized and its error on the outputs measured (``distance``); then the groups go back
    to FP32, first the one whose error is largest for what it saves (``_Parts.savings``), and bisection finds how many
    must: 47 convolutions that err a little are dearer than one that errs as much. Layers that the runtime computes in
    float anyway go back first, since they gain nothing. ``found`` is False, and nothing written, where only FP32 holds
    the budget, the graph holds it as it is, or the time ended first.
    """
    parts = _Parts(problem)
    groups, errors = _sensitivity(parts, problem)
    saved = parts.savings()

    def worth(index: int) -> float:
        return errors[index] / sum(saved[name] for name in groups[index].names)

    order = sorted(range(len(groups)), key=worth, reverse=True)

    def back(count: int) -> list[str]:
        return [*parts.free, *(name for index in order[:count] for name in groups[index].names)]

    high, ended = fewest(parts.overshoot, len(groups), back, problem.progress, lambda: parts.spent() > problem.seconds)
    found = high < len(groups) and bool(back(high))
    if found:
        parts.write(back(high), target)
    taken = set(back(high)) if found else set()
    return SensitivityRecord(
        found=found,
        said=_in_words(ended, found, high, problem.seconds),
        groups=[
            LayerGroupRecord(
                label=group.label,
                branch=group.branch,
                kind=group.layers[0].kind if len(group.layers) == 1 else f"{len(group.layers)} layers",
                error=error,
                fp32=set(group.names) <= taken,
            )
            for group, error in zip(groups, errors)
        ],
        branches=parts.branches(),
        float_anyway=parts.floating,
        int8_layers=len(parts.layers) - len(taken) if found else 0,
        layers=len(parts.layers),
        evaluations=parts.computed,
        seconds=round(parts.spent(), 1),
        base=problem.quantized.stem,
    )


class _Parts:
    """The graph with some layers in FP32, measured; each once, in this run or in one that was interrupted."""

    def __init__(self, problem: Search) -> None:
        import onnx

        self.problem, self.began, self.computed = problem, time.monotonic(), 0
        self.model, self.float_model = onnx.load(problem.quantized), onnx.load(problem.reference)
        self.expected = problem.outputs(problem.reference)
        samples = sha256(self.expected.tobytes()).hexdigest()
        self.about = [sha256_of(problem.quantized), sha256_of(problem.reference), samples]
        self.layers = qdq.layers(self.model)
        self.floating = qdq.prove(problem.quantized, precision.optimized(problem.quantized)).float_layers
        self.free = [layer.name for layer in self.layers if layer.label in self.floating]

    def spent(self) -> float:
        return time.monotonic() - self.began

    def write(self, back: Collection[str], target: Path) -> None:
        """Write the graph with the layers ``back`` in FP32."""
        import onnx

        onnx.save(qdq.restored(self.model, self.float_model, back), target)

    def error(self, names: Collection[str]) -> float:
        """Of the outputs, where only these layers are quantized."""
        back = [layer.name for layer in self.layers if layer.name not in names]
        return self._measured("error", back, lambda graph: distance(self.expected, self.problem.outputs(graph)))

    def savings(self) -> dict[str, float]:
        """{layer: about what share it has of what INT8 saves}: half by multiplications, half as one of so many kernels."""
        macs = macs_by_node(copy.deepcopy(self.model))
        own = {layer.name: macs.get(layer.name, 0) for layer in self.layers}
        total = sum(own.values()) or 1
        return {name: (count / total + 1 / len(own)) / 2 for name, count in own.items()}

    def branches(self) -> dict[str, float]:
        """{branch: the error with it alone quantized}."""
        names = dict.fromkeys(layer.branch for layer in self.layers)
        return {name: self.error([layer.name for layer in self.layers if layer.branch == name]) for name in names}

    def overshoot(self, back: Collection[str]) -> float:
        """By how much the budget is missed with the layers ``back`` in FP32."""
        return self._measured("overshoot", back, self.problem.overshoot)

    def _measured(self, kind: str, back: Collection[str], function: Callable[[Path], float]) -> float:
        def compute() -> float:
            self.computed += 1
            with scratch() as folder:
                self.write(back, folder / "part.onnx")
                return function(folder / "part.onnx")

        name = f"{hash_json([self.about, [kind, sorted(back)]])[:24]}.json"
        return float(remembered(self.problem.cache / name, compute))


def _sensitivity(parts: _Parts, problem: Search) -> tuple[list[LayerGroup], list[float]]:
    """The groups of layers and the error that each alone causes; 0 for those that the time did not suffice for."""
    judged = [layer for layer in parts.layers if layer.name not in parts.free]
    began = parts.spent()
    if judged:
        parts.error([judged[0].name])
    one = max(parts.spent() - began, 1e-3)
    groups = grouped(judged, max(2, int(_SENSITIVITY_SHARE * problem.seconds / one)))
    parts.branches()
    errors = []
    for number, group in enumerate(groups):
        problem.progress.step("sensitivity of layers", number, len(groups), group.label)
        errors.append(parts.error(group.names))
        if parts.spent() > problem.seconds:
            break
    return groups, errors + [0.0] * (len(groups) - len(errors))


def fewest(
    overshoot: Callable[[list[str]], float],
    count: int,
    back: Callable[[int], list[str]],
    progress: Progress,
    late: Callable[[], bool],
) -> tuple[int, bool]:
    """How many of ``count`` groups must go ``back`` to FP32, and whether ``late`` ended it before that was known.

    By bisection in ``LOOKS`` steps: to one in 32 groups. Each looks at the same samples, and one that passes by luck is
    taken: ``overshoot`` must allow for so many.
    """
    low, high, tried = -1, count, 0  # low misses the budget; high holds it: all in FP32
    while high - low > 1 and tried < LOOKS and not late():
        middle = (low + high) // 2 if low >= 0 else 0
        progress.step("mixed precision", tried, min(LOOKS, count.bit_length() + 1), f"{middle} groups in FP32")
        tried += 1
        if overshoot(back(middle)) <= 0:
            high = middle
        else:
            low = middle
    return high, high - low > 1 and tried < LOOKS


def _in_words(ended: bool, found: bool, back: int, seconds: float) -> str:
    if ended:
        return f"the time of {seconds:g} s ended first"
    if not found:
        return "no layer need go back" if back == 0 else "only FP32 holds the budget"
    return "inside the budget"


def grouped(layers: Sequence[QuantizedLayer], most: int) -> list[LayerGroup]:
    """At most about ``most`` groups, each branch its share: a layer each, else those of one place in the model together (an
    attention, a block, a stage), as deep as so few allow; neighbours where places would be a third as many or fewer."""
    groups: list[LayerGroup] = []
    for branch in dict.fromkeys(layer.branch for layer in layers):
        of_branch = [layer for layer in layers if layer.branch == branch]
        groups += _grouped(of_branch, branch, -(-most * len(of_branch) // len(layers)))
    return groups


def _grouped(layers: Sequence[QuantizedLayer], branch: str, most: int) -> list[LayerGroup]:
    for depth in range(max(layer.label.count(".") for layer in layers) + 1, 0, -1):
        places: dict[str, list[QuantizedLayer]] = {}
        for layer in layers:
            places.setdefault(".".join(layer.label.split(".")[:depth]), []).append(layer)
        if len(places) <= most:
            break
    if most >= len(places) > most / 3:
        return [
            LayerGroup(found[0].label if len(found) == 1 else place, branch, tuple(found))
            for place, found in places.items()
        ]
    size, groups = -(-len(layers) // most), []
    for start in range(0, len(layers), size):
        part = tuple(layers[start : start + size])
        label = part[0].label if len(part) == 1 else f"{part[0].label} … {part[-1].label}"
        groups.append(LayerGroup(label, branch, part))
    return groups
