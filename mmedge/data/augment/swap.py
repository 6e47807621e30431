"""A text of which some tokens have changed places with the next one (random swap, Wei & Zou 2019, of neighbours)."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.data.augment.tokens import inside
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """Each with the probability ``swap``, but for the first and the last. ``x``: ids [batch, n]."""
    inner, _ = inside(x, spec)
    draws = chance.drawn("swap", x[0].size).reshape(x.shape) < augment.swap
    x = x.copy()
    for place in range(x.shape[-1] - 1):
        both = inner[..., place] & inner[..., place + 1] & draws[..., place]
        here, following = x[..., place].copy(), x[..., place + 1].copy()
        x[..., place], x[..., place + 1] = np.where(both, following, here), np.where(both, here, following)
    return x
