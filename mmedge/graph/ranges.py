"""The values that tensors of a graph take over calibration samples, and the range of 8-bit codes that they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mmedge.backends import onnxruntime_cpu

# How a range is chosen: of least squared error, of all samples' extremes, the mean of each sample's extremes, or without
# the outermost 0.01 % of values.
Choice = Literal["error", "extremes", "mean", "percentile"]

# Beyond it stands what masks put in the place of minus infinity, the least float: no value of a signal.
_MASKED = 1e30
# Of each sample, the values that are kept to choose a range by.
_KEPT = 1024
# Shares of the extremes that are tried as the range of least error.
_SHARES = np.linspace(0.3, 1.0, 15)


@dataclass
class Values:
    """What is known of a tensor. ``lows``, ``highs``: each sample's extremes; ``sums``, ``largest``: [channels], of all
    values and of their magnitudes; ``count``: values a channel; ``some``: values drawn from each sample."""

    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    some: list[np.ndarray] = field(default_factory=list)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0))
    largest: np.ndarray = field(default_factory=lambda: np.zeros(0))
    count: int = 0

    def take(self, value: np.ndarray, channel: int, random: np.random.Generator) -> None:
        """Add one sample's values; ``channel``: the axis of channels. Masked values and those that are not finite are left out."""
        value = np.asarray(value, np.float32)
        known = np.abs(value) < _MASKED  # False for NaN, too
        if not known.all():
            value = np.where(known, value, np.float32(0))
        self.lows.append(float(value.min(initial=0)))
        self.highs.append(float(value.max(initial=0)))
        if not value.size:
            return
        flat = value.ravel()
        self.some.append(flat if flat.size <= _KEPT else flat[random.integers(flat.size, size=_KEPT)])
        axes = tuple(axis for axis in range(value.ndim) if axis != channel % value.ndim)
        sums, largest = value.sum(axis=axes, dtype=np.float64), np.abs(value).max(axis=axes)
        fits = self.sums.shape == sums.shape
        self.sums = self.sums + sums if fits else sums
        self.largest = np.maximum(self.largest, largest) if fits else largest
        self.count = (self.count if fits else 0) + value.size // sums.size

    @property
    def mean(self) -> np.ndarray:
        """float64 [channels]."""
        return self.sums / max(self.count, 1)

    def range(self, choice: Choice) -> tuple[float, float]:
        """(lowest, highest) value that has a code of its own; 0 is always between them."""
        low, high = min(self.lows, default=0.0), max(self.highs, default=0.0)
        if choice == "mean" and self.lows:
            low, high = float(np.mean(self.lows)), float(np.mean(self.highs))
        elif choice == "percentile" and self.some:
            low, high = (float(each) for each in np.quantile(np.concatenate(self.some), (1e-4, 1 - 1e-4)))
        elif choice == "error" and self.some:
            low, high = _least_error(np.concatenate(self.some), low, high)
        return min(low, 0.0), max(high, 0.0)


def codes(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """(scale, zero point) of the uint8 codes of a range that holds 0."""
    scale = max((high - low) / 255, 1e-12)
    return np.float32(scale), np.uint8(np.clip(round(-low / scale), 0, 255))


def _least_error(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The part of a range that 256 codes cover with the least squared error: either end is drawn in, or both."""
    tried = {(low * share, high * share) for share in _SHARES}
    reach = max(-low, high)
    tried |= {(max(low, -reach * share), min(high, reach * share)) for share in _SHARES}

    def error(ends: tuple[float, float]) -> float:
        scale, zero = codes(*ends)
        found = (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale
        return float(np.square(found - values).mean())

    return min(sorted(tried), key=error)


def collected(model: Any, channels: Mapping[str, int], inputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Values]:
    """The values of a loaded model's tensors over samples, {input: [1, *shape]} each, in one pass.

    ``channels``: {tensor: its axis of channels}.
    """
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    shown = {value.name for value in [*model.graph.output, *model.graph.input]}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in channels if name not in shown)
    run, random = onnxruntime_cpu.session(watched.SerializeToString()), np.random.default_rng(0)
    found = {name: Values() for name in channels}
    for sample in inputs:
        values = {**sample, **run(sample)}
        for name, channel in channels.items():
            found[name].take(values[name], channel, random)
    return found
