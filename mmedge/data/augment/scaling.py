"""A series whose channels are each a little stronger or weaker (Um et al. 2017)."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.data.store.forms import restored
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """By a factor of mean 1 and the deviation ``scaling``, in the series' own unit. ``x``: [batch, c, n] -> float32."""
    factors = 1 + augment.scaling * chance.gaussian("scaling", x.shape[1])
    return restored(spec, x) * factors.astype(np.float32)[:, :, None]
