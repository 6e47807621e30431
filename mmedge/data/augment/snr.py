"""Noise that is added to a sound at a ratio of signal to noise: white, or the sounds of a folder.

A noise goes through the preprocessing of the sound. Of waveforms samples are added, of log-mel energies the energies
themselves, which is what adding the samples does but for the products of both, whose mean is 0.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from mmedge import preprocess
from mmedge.data.augment.chance import Chance
from mmedge.data.augment.sounds import log_unit, some_sounds
from mmedge.data.store.forms import restored
from mmedge.recipe import Augment
from mmedge.spec import AudioSpec, ModalitySpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """At a ratio between those of ``snr``, a noise from a place of its own. ``x``: [batch, ...] -> float32."""
    assert isinstance(spec, AudioSpec) and augment.snr is not None
    noises, draws = _noises(spec, augment.noise_folder), chance.drawn("snr", 3)
    low, high = augment.snr
    ratios = 10 ** ((low + (high - low) * draws[:, 0]) / 10)
    out = restored(spec, x)
    for row in range(len(out)):
        noise = noises[int(draws[row, 1] * len(noises))]
        noise = np.roll(noise, int(draws[row, 2] * noise.shape[-1]), axis=-1)
        if spec.features == "waveform":
            power = np.mean(out[row] ** 2, dtype=np.float64) / ratios[row]
            out[row] += noise * np.float32(np.sqrt(power / max(1e-12, np.mean(noise**2, dtype=np.float64))))
        else:
            unit = log_unit(spec)
            signal, other = (np.mean(np.exp(one.astype(np.float64) / unit)) for one in (out[row], noise))
            out[row] = unit * np.logaddexp(
                out[row] / unit, noise / unit + np.float32(np.log(signal / ratios[row] / other))
            )
    return out


@lru_cache(maxsize=8)
def _noises(spec: AudioSpec, folder: Path | None) -> list[np.ndarray]:
    """``preprocess.raw_features`` of each noise, as loud as it is."""
    if folder is None:
        white = np.random.default_rng(0).normal(0, 0.1, spec.samples).astype(np.float32)
        return [preprocess.raw_features(spec, white, "noise")]
    return [preprocess.raw_features(spec, path, "noise") for path in some_sounds(folder, "noise_folder")]
