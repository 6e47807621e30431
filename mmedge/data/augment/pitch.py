"""A sound that is higher or lower, and as fast as it was."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.data.store.forms import restored
from mmedge.preprocess.centred import band_centres
from mmedge.recipe import Augment
from mmedge.spec import AudioSpec, ModalitySpec

# Seconds of a window of the vocoder, and windows that overlap.
_WINDOW, _OVERLAP = 0.032, 4


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """By at most ``pitch`` semitones. ``x``: [batch, ...] -> float32.

    A waveform is stretched by a phase vocoder (Flanagan & Golden 1966) and read faster; log-mel energies move along their
    bands, as of a vocal tract of another length (Jaitly & Hinton 2013).
    """
    assert isinstance(spec, AudioSpec)
    factors = 2 ** (augment.pitch * (2 * chance.drawn("pitch", 1)[:, 0] - 1) / 12)
    out = restored(spec, x)
    for row, factor in enumerate(factors):
        if spec.features == "waveform":
            out[row] = read_at(_stretched(out[row], factor, spec.sample_rate), factor, len(out[row]))
        else:
            out[row, 0] = bands_moved(out[row, 0], factor, spec)
    return out


def bands_moved(energies: np.ndarray, factor: float, spec: AudioSpec) -> np.ndarray:
    """[mels, frames] of a sound whose frequencies are ``factor`` times what they were; beyond the bands the edge is repeated."""
    centres = band_centres(spec)
    place = np.interp(centres / factor, centres, np.arange(len(centres)))
    low = np.minimum(place.astype(int), len(centres) - 2)
    part = (place - low).astype(np.float32)[:, None]
    moved: np.ndarray = energies[low] * (1 - part) + energies[low + 1] * part
    return moved


def read_at(sound: np.ndarray, factor: float, count: int) -> np.ndarray:
    """float32 [count]: a waveform read ``factor`` times as fast, silent behind its end."""
    return np.interp(np.arange(count) * factor, np.arange(len(sound)), sound, right=0).astype(np.float32)


def _stretched(sound: np.ndarray, factor: float, rate: int) -> np.ndarray:
    """A waveform that takes ``factor`` times as long, at the same pitch."""
    size = 1 << round(np.log2(_WINDOW * rate))
    hop = size // _OVERLAP
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    padded = np.pad(sound, (size, 2 * size))
    spectrum = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window)
    places = np.arange(0, len(spectrum) - 1, 1 / factor)
    first, part = places.astype(int), (places % 1)[:, None]
    size_of, angle = np.abs(spectrum), np.angle(spectrum)
    expected = 2 * np.pi * hop * np.arange(spectrum.shape[1]) / size
    turned = angle[first + 1] - angle[first] - expected
    turned -= 2 * np.pi * np.round(turned / (2 * np.pi))
    phase = np.cumsum(np.concatenate([angle[:1], (turned + expected)[:-1]]), axis=0)
    mixed = (1 - part) * size_of[first] + part * size_of[first + 1]
    frames = np.fft.irfft(mixed * np.exp(1j * phase), size) * window
    blocks = np.zeros((len(frames) + _OVERLAP, hop))
    for number in range(_OVERLAP):
        blocks[number : number + len(frames)] += frames[:, number * hop : (number + 1) * hop]
    # Squares of such windows, a quarter apart, add up to 1.5.
    return blocks.reshape(-1)[round(size * factor) :] / 1.5
