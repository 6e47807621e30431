"""A sound that is faster and higher, or slower and lower: speed perturbation (Ko et al. 2015)."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.data.augment.pitch import bands_moved, read_at
from mmedge.data.store.forms import restored
from mmedge.recipe import Augment
from mmedge.spec import AudioSpec, ModalitySpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """By at most the part ``speed``. ``x``: [batch, ...] -> float32.

    A waveform is silent behind its end; of log-mel energies the last frame is repeated, and the bands move along.
    """
    assert isinstance(spec, AudioSpec)
    factors = 1 + augment.speed * (2 * chance.drawn("speed", 1)[:, 0] - 1)
    out = restored(spec, x)
    for row, factor in enumerate(factors):
        if spec.features == "waveform":
            out[row] = read_at(out[row], factor, len(out[row]))
            continue
        last = out.shape[-1] - 1
        place = np.minimum(np.arange(last + 1) * factor, last)
        low = np.minimum(place.astype(int), last - 1)
        part = (place - low).astype(np.float32)
        out[row, 0] = bands_moved(out[row, 0][:, low] * (1 - part) + out[row, 0][:, low + 1] * part, factor, spec)
    return out
