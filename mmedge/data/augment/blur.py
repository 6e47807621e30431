"""A Gaussian blur of an image."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.data.store.forms import as_pixels, restored
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec

_SHARE, _LEAST = 0.5, 0.1


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """Half of the views, by a deviation of 0.1 to ``blur`` pixels, as SimCLR has it. ``x``: [batch, c, h, w], uint8 stays uint8."""
    draws = chance.drawn("blur", 2)
    deviations = _LEAST + max(0.0, augment.blur - _LEAST) * draws[:, 1]
    for row in np.flatnonzero(draws[:, 0] < _SHARE):
        reach = int(np.ceil(3 * deviations[row]))
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviations[row]) ** 2)
        weights = (weights / weights.sum()).astype(np.float32)
        blurred = restored(spec, x[row])
        for axis in (1, 2):
            blurred = _along(blurred, weights, axis)
        x[row] = as_pixels(blurred, x.dtype)
    return x


def _along(x: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """``x`` with its edge repeated, convolved along an axis."""
    reach, size = len(weights) // 2, x.shape[axis]
    wide = np.pad(x, [(reach, reach) if other == axis else (0, 0) for other in range(x.ndim)], mode="edge")
    out, part = np.zeros_like(x), np.empty_like(x)
    for start, weight in enumerate(weights):
        out += np.multiply(
            wide.take(range(start, start + size), axis) if axis == 2 else wide[:, start : start + size],
            weight,
            out=part,
        )
    return out
