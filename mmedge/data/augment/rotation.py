"""The axes of a device that is worn or mounted another way: channels in threes, turned in space (Um et al. 2017)."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.data.store.forms import restored
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """By at most ``rotate_axes`` degrees about any axis, in the series' own unit. ``x``: [batch, 3 k, n] -> float32."""
    axis = chance.gaussian("rotation", 3)
    axis /= np.maximum(1e-9, np.linalg.norm(axis, axis=1, keepdims=True))
    angle = np.deg2rad(augment.rotate_axes * (2 * chance.drawn("turn", 1)[:, 0] - 1))
    cross = np.zeros((len(x), 3, 3))
    cross[:, [2, 0, 1], [1, 2, 0]], cross[:, [1, 2, 0], [2, 0, 1]] = axis, -axis
    # Rodrigues' formula.
    turn = np.eye(3) + np.sin(angle)[:, None, None] * cross + (1 - np.cos(angle))[:, None, None] * (cross @ cross)
    series = restored(spec, x)
    threes = series.reshape(len(x), -1, 3, x.shape[-1])
    return np.einsum("bij,bgjn->bgin", turn.astype(np.float32), threes).reshape(series.shape)
