"""Channels of a series that are blanked with the training mean: a sensor that has failed."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """Each with the probability ``channel_drop``; one of them stays. ``x``: [batch, c, n]."""
    draws = chance.drawn("channels", x.shape[1])
    dropped = (draws < augment.channel_drop) & (draws < draws.max(axis=1, keepdims=True))
    return np.where(dropped[:, :, None], x.dtype.type(0), x)
