"""A band that is blanked with the training mean: SpecAugment (Park et al. 2019), for any tensor."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import PLACES, Chance
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """At most ``mask`` steps of the last axis and ``mask_rows`` of the one before it, in tensors that have such an axis.

    That ``masks`` times.
    """
    for axis, widest in enumerate((augment.mask, augment.mask_rows)):
        if widest and x.ndim >= 2 + axis:
            first = 2 + 2 * axis
            draws = [chance.uniform(*PLACES)[:, first : first + 2]]
            draws += [chance.drawn(f"mask {axis} {number}", 2) for number in range(1, augment.masks)]
            for each in draws:
                x = _masked(x, widest, each, axis=x.ndim - 1 - axis)
    return x


def _masked(x: np.ndarray, widest: int, draws: np.ndarray, axis: int) -> np.ndarray:
    width = np.floor(draws[:, :1] * (widest + 1))
    start = draws[:, 1:] * (x.shape[axis] - width)
    place = np.arange(x.shape[axis])
    hidden = (place >= start) & (place < start + width)
    along = tuple(x.shape[a] if a in (0, axis) else 1 for a in range(x.ndim))
    return np.where(hidden.reshape(along), x.dtype.type(0), x)
