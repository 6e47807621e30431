"""A sound in a room: simulated ones, or the impulse responses of a folder."""

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

# Simulated rooms, their smallest and largest sides in metres, seconds until an echo is 60 dB softer, and metres a second.
_ROOMS, _SIDES, _ECHO, _SOUND = 16, ((3, 3, 2.3), (9, 7, 3.5)), (0.15, 0.5), 343.0
# Seconds of a response that are heard.
_HEARD = 0.3


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """In a share ``room`` of the views, as loud as it was and from its beginning on. ``x``: [batch, ...] -> float32.

    A waveform is convolved; of log-mel energies each band's are, with the response's energy a frame: what that adds up to
    but for the products of different times, whose mean is 0.
    """
    assert isinstance(spec, AudioSpec)
    responses, draws = _responses(spec, augment.room_folder), chance.drawn("room", 2)
    out = restored(spec, x)
    for row in np.flatnonzero(draws[:, 0] < augment.room):
        response = responses[int(draws[row, 1] * len(responses))]
        if spec.features == "waveform":
            heard = _convolved(out[row], response)
            power, before = (np.mean(one**2, dtype=np.float64) for one in (heard, out[row]))
            out[row] = heard * np.float32(np.sqrt(before / max(1e-12, power)))
        else:
            unit = log_unit(spec)
            frames = np.add.reduceat(response.astype(np.float64) ** 2, np.arange(0, len(response), spec.hop))
            energies = _convolved(np.exp(out[row, 0].astype(np.float64) / unit), frames / frames.sum())
            # What the transform rounds below the faintest is no energy.
            out[row, 0] = unit * np.log(np.maximum(energies, np.exp(out[row, 0].min() / unit)))
    return out


def _convolved(x: np.ndarray, response: np.ndarray) -> np.ndarray:
    """[..., n] of ``x`` [..., n], by the response along its last axis."""
    size = 1 << (x.shape[-1] + len(response) - 1).bit_length()
    spectrum = np.fft.rfft(x, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[..., : x.shape[-1]].astype(x.dtype)


@lru_cache(maxsize=8)
def _responses(spec: AudioSpec, folder: Path | None) -> list[np.ndarray]:
    """float32 [n] each, at the spec's rate, from what arrives first on."""
    if folder is None:
        rng = np.random.default_rng(0)
        return [_simulated(rng, spec.sample_rate) for _ in range(_ROOMS)]
    whole = AudioSpec(
        kind="audio", features="waveform", sample_rate=spec.sample_rate, length=round(2 * spec.sample_rate)
    )
    found = [preprocess.raw_features(whole, path, "response") for path in some_sounds(folder, "room_folder")]
    starts = [int(np.argmax(np.abs(one) >= 0.5 * np.abs(one).max())) for one in found]
    return [
        np.trim_zeros(one[start:], "b") if one.any() else np.ones(1, np.float32) for one, start in zip(found, starts)
    ]


def _simulated(rng: np.random.Generator, rate: int) -> np.ndarray:
    """A room with walls that are all alike, by the image method (Allen & Berkley 1979), its absorption by Sabine's formula."""
    sides = rng.uniform(*_SIDES)
    source, ear = (rng.uniform(0.5, sides - 0.5) for _ in range(2))
    volume, walls = np.prod(sides), 2 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[0] * sides[2])
    reflected = np.sqrt(1 - min(0.99, 0.161 * volume / (walls * rng.uniform(*_ECHO))))
    each = []
    for side, from_, to in zip(sides, source, ear):
        most = int(np.ceil(_HEARD * _SOUND / (2 * side)))
        number = np.arange(-most, most + 1)
        # An image in each pair of walls, and its mirror's, with how often it was reflected.
        away = np.concatenate([2 * number * side + from_ - to, 2 * number * side - from_ - to])
        each.append((away, np.concatenate([np.abs(2 * number), np.abs(2 * number - 1)])))
    (x, y, z), (of_x, of_y, of_z) = (np.ix_(*parts) for parts in zip(*each))
    away, times = np.sqrt(x**2 + y**2 + z**2), of_x + of_y + of_z
    first = np.linalg.norm(source - ear)
    place = np.rint((away - first) / _SOUND * rate).astype(int)
    near = (place >= 0) & (place < _HEARD * rate)
    return np.bincount(place[near], (reflected ** times[near]) / away[near]).astype(np.float32)
