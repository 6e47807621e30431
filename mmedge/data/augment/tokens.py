"""A text with some of its tokens left out (random deletion, Wei & Zou 2019)."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.recipe import Augment
from mmedge.spec import ArraySpec, ModalitySpec, TextSpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """Each with the probability ``token_dropout``, but for the first and the last; what follows moves up. ``x``: ids [batch, n]."""
    inner, pad = inside(x, spec)
    left = inner & (chance.drawn("tokens", x[0].size).reshape(x.shape) < augment.token_dropout)
    x = np.where(left, x.dtype.type(pad), x)
    order = np.argsort(left, axis=-1, kind="stable")
    return np.take_along_axis(x, order, axis=-1)


def inside(x: np.ndarray, spec: ModalitySpec) -> tuple[np.ndarray, int]:
    """(bool like ``x``: tokens that are neither the first nor the last of their text, the id of padding)."""
    pad = spec.pad if isinstance(spec, (TextSpec, ArraySpec)) else 0
    there = x != pad
    last = there.shape[-1] - 1 - np.argmax(there[..., ::-1], axis=-1)
    place = np.arange(x.shape[-1])
    return there & (place > 0) & (place < last[..., None]), pad
