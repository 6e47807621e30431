"""Added noise, in normalised units."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """Gaussian noise of the deviation ``noise``."""
    return x + np.float32(augment.noise) * chance.normal(x.shape[1:]) if augment.noise else x
