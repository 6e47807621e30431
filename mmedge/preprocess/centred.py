"""Log-mel energies of Whisper, torchaudio and librosa: centred frames, a Hann window, NumPy's Fourier transform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from mmedge.spec import AudioSpec

# Energies below it count as it.
_FLOOR = 1e-10
# Samples whose frames are computed at once, so that a long sound does not fill the memory.
_AT_ONCE = 1 << 20


def features(spec: AudioSpec, waveform: np.ndarray) -> np.ndarray:
    """float32 [n] of at most ``spec.samples`` -> float32 [mels, frames]; what follows a shorter sound is silence.

    The first ``spec.frames`` frames of what the original gives for the padded sound, within 1e-3 of a decibel or, of
    Whisper, 1e-4.
    """
    preset = _PRESETS[spec.preset]
    fft = spec.fft or spec.window
    padded = np.zeros(spec.samples, np.float64)
    padded[: len(waveform)] = waveform
    padded = np.pad(padded, fft // 2, mode=preset.edges)
    frames = np.lib.stride_tricks.sliding_window_view(padded, fft)[:: spec.hop]
    window, bank = _window(spec.window, fft), _filters(preset.slaney, spec.sample_rate, fft, spec.mels, *spec.band_hz)
    frames = frames[: spec.frames + preset.one_more]
    step = max(1, _AT_ONCE // fft)
    energies = [
        bank @ (np.abs(np.fft.rfft(frames[at : at + step] * window)) ** 2).T for at in range(0, len(frames), step)
    ]
    return preset.logarithm(np.concatenate(energies, axis=1))[:, : spec.frames].astype(np.float32)


def _whisper(energies: np.ndarray) -> np.ndarray:
    """Radford et al. 2022: log10 within 8 of the loudest, brought to about -1 to 1."""
    found = np.log10(np.maximum(energies, _FLOOR))
    return (np.maximum(found, found.max() - 8) + 4) / 4


def _decibels(energies: np.ndarray) -> np.ndarray:
    """torchaudio.transforms.AmplitudeToDB("power")."""
    return 10 * np.log10(np.maximum(energies, _FLOOR))


def _decibels_within_80(energies: np.ndarray) -> np.ndarray:
    """librosa.power_to_db: within 80 dB of the loudest."""
    found = _decibels(energies)
    return np.maximum(found, found.max() - 80)


@dataclass(frozen=True)
class _Preset:
    """How a preset differs from the others.

    ``edges``: how np.pad continues a sound; ``slaney``: Slaney's scale and areas, or HTK's scale and heights of 1;
    ``one_more``: whether the frame behind the sound's end counts for the loudest.
    """

    logarithm: Callable[[np.ndarray], np.ndarray]
    edges: Literal["reflect", "constant"]
    slaney: bool
    one_more: bool


_PRESETS = {
    "whisper": _Preset(_whisper, "reflect", True, False),
    "torchaudio": _Preset(_decibels, "reflect", False, True),
    "librosa": _Preset(_decibels_within_80, "constant", True, True),
}


@lru_cache(maxsize=16)
def _window(samples: int, fft: int) -> np.ndarray:
    """float64 [fft]: a periodic Hann window of ``samples`` in the middle."""
    window = np.zeros(fft)
    start = (fft - samples) // 2
    window[start : start + samples] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(samples) / samples)
    return window


@lru_cache(maxsize=16)
def _filters(slaney: bool, sample_rate: int, fft: int, mels: int, low: float, high: float) -> np.ndarray:
    """float64 [mels, fft // 2 + 1]: triangles over the frequencies of the transform, equally wide in mel."""
    to_mel, to_hz = (_slaney_mel, _slaney_hz) if slaney else (_htk_mel, _htk_hz)
    edges = to_hz(np.linspace(to_mel(np.array(low)), to_mel(np.array(high)), mels + 2))
    bins = np.arange(fft // 2 + 1) * sample_rate / fft
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return triangles * (2 / (edges[2:] - edges[:-2]))[:, None] if slaney else triangles


def band_centres(spec: AudioSpec) -> np.ndarray:
    """float64 [mels]: the frequencies that bands are about, in Hz; of Kaldi's too, which has HTK's scale."""
    slaney = spec.preset in _PRESETS and _PRESETS[spec.preset].slaney
    to_mel, to_hz = (_slaney_mel, _slaney_hz) if slaney else (_htk_mel, _htk_hz)
    low, high = (to_mel(np.array(edge)) for edge in spec.band_hz)
    return to_hz(np.linspace(low, high, spec.mels + 2)[1:-1])


def _htk_mel(hz: np.ndarray) -> np.ndarray:
    """O'Shaughnessy 1987, as in HTK."""
    return 2595 * np.log10(1 + hz / 700)


def _htk_hz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


# Slaney's Auditory Toolbox (1998): 200/3 Hz a mel up to 1000 Hz, and 27 mels for each factor of 6.4 above.
_LINEAR_HZ, _KNEE_HZ, _PER_E = 200 / 3, 1000.0, 27 / np.log(6.4)


def _slaney_mel(hz: np.ndarray) -> np.ndarray:
    above = _KNEE_HZ / _LINEAR_HZ + np.log(np.maximum(hz, _KNEE_HZ) / _KNEE_HZ) * _PER_E
    return np.where(hz < _KNEE_HZ, hz / _LINEAR_HZ, above)


def _slaney_hz(mel: np.ndarray) -> np.ndarray:
    knee = _KNEE_HZ / _LINEAR_HZ
    return np.where(mel < knee, mel * _LINEAR_HZ, _KNEE_HZ * np.exp((np.maximum(mel, knee) - knee) / _PER_E))
