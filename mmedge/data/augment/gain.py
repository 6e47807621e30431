"""A sound that is louder or softer."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.data.augment.sounds import LOG_UNIT
from mmedge.data.store.forms import restored
from mmedge.recipe import Augment
from mmedge.spec import AudioSpec, ModalitySpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """By at most ``gain`` decibels: a factor of a waveform, a sum of log energies. ``x``: [batch, ...] -> float32."""
    assert isinstance(spec, AudioSpec)
    decibels = augment.gain * (2 * chance.drawn("gain", 1)[:, 0] - 1)
    sound = restored(spec, x)
    along = (-1, *(1,) * (sound.ndim - 1))
    if spec.features == "waveform":
        return sound * (10 ** (decibels / 20)).astype(np.float32).reshape(along)
    return sound + (LOG_UNIT[spec.preset] * decibels / 10).astype(np.float32).reshape(along)
