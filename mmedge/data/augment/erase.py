"""A box of an image that is blanked with the training mean: random erasing (Zhong et al. 2020)."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec

_AREA, _ASPECT = (0.02, 0.33), (0.3, 3.3)


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """A box of 2 to 33 % of the area and an aspect of 0.3 to 3.3, in a share ``erase`` of the views. ``x``: [batch, c, h, w]."""
    draws, size = chance.drawn("erase", 5), np.array(x.shape[-2:])
    area = (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[:, 1]) * size.prod()
    aspect = _ASPECT[0] * (_ASPECT[1] / _ASPECT[0]) ** draws[:, 2]
    sides = np.clip(np.rint(np.sqrt(np.stack([area / aspect, area * aspect], axis=1))), 1, size).astype(int)
    places = np.floor(draws[:, 3:] * (size - sides + 1)).astype(int)
    for row in np.flatnonzero(draws[:, 0] < augment.erase):
        (top, left), (height, width) = places[row], sides[row]
        x[row, :, top : top + height, left : left + width] = 0
    return x
