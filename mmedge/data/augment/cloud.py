"""A cloud turned about its vertical axis, made larger or smaller, jittered, and thinned (Qi et al. 2017)."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.data.store.forms import restored
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec, PointsSpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """By at most ``turn`` degrees and the part ``stretch``; places by noise of the deviation ``jitter``; and without a share
    of its points, at most ``point_dropout`` of them. ``x``: [batch, channels + 1, points], the mask last -> float32."""
    clouds, up = restored(spec, x), spec.up if isinstance(spec, PointsSpec) else "z"
    turn, size = (2 * chance.drawn("cloud", 2) - 1).T
    angle, size = np.deg2rad(augment.turn * turn), 1 + augment.stretch * size
    first, second = (axis for axis in range(3) if axis != "xyz".index(up))
    turned = np.tile(np.eye(3), (len(x), 1, 1))
    turned[:, first, first] = turned[:, second, second] = np.cos(angle)
    turned[:, first, second], turned[:, second, first] = -np.sin(angle), np.sin(angle)
    clouds[:, :3] = np.matmul((turned * size[:, None, None]).astype(np.float32), clouds[:, :3])
    if augment.jitter:
        clouds[:, :3] += np.float32(augment.jitter) * chance.normal((3, x.shape[2]))
    if augment.point_dropout:
        share = augment.point_dropout * chance.drawn("thinning", 1)
        kept = chance.drawn("thinned", x.shape[2]) >= share
        kept |= ~(kept & (clouds[:, -1] > 0)).any(axis=1, keepdims=True)  # none is left without a point
        clouds[:, -1] *= kept
    clouds[:, :-1] *= clouds[:, -1:]
    return clouds
