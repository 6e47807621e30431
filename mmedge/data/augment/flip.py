"""An image in a mirror."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """Left for right, in a share ``flip`` of the views. ``x``: [batch, ..., w]."""
    rows = np.flatnonzero(chance.drawn("flip", 1)[:, 0] < augment.flip)
    x[rows] = x[rows][..., ::-1]
    return x
