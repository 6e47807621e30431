"""A series whose time runs faster here and slower there (Um et al. 2017)."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.data.store.forms import restored
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec

# Places of a series whose speed is drawn; between them it changes evenly.
_KNOTS = 6


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """By at most the part ``time_warp``; start and end stay. ``x``: [batch, c, n] -> float32."""
    steps = x.shape[-1]
    speeds = 1 + augment.time_warp * (2 * chance.drawn("warp", _KNOTS) - 1)
    at = np.linspace(0, _KNOTS - 1, steps - 1)
    below = np.minimum(at.astype(int), _KNOTS - 2)
    speed = speeds[:, below] + (speeds[:, below + 1] - speeds[:, below]) * (at - below)
    time = np.concatenate([np.zeros((len(x), 1)), np.cumsum(speed, axis=1)], axis=1)
    time *= (steps - 1) / time[:, -1:]
    first = np.minimum(time.astype(int), steps - 2)
    part = (time - first).astype(np.float32)[:, None]
    series = restored(spec, x)
    before, after = (np.take_along_axis(series, place[:, None], axis=2) for place in (first, first + 1))
    return before + (after - before) * part
