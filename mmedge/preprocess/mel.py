"""Log-mel energies and MFCC by kaldi-native-fbank."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError
from mmedge.spec import AudioSpec


def features(spec: AudioSpec, waveform: np.ndarray) -> np.ndarray:
    """float32 [n] of at most ``spec.samples`` -> float32 [bands, frames]; what follows a shorter sound is silence.

    A Povey-windowed power spectrum on an HTK mel scale and its natural logarithm (Kaldi's fbank), and for MFCC its
    discrete cosine transform with Kaldi's lifter (Povey et al. 2011). Raises MmedgeError for options that no sound can
    have.
    """
    make, options, silence = _kaldi(
        spec.features, spec.sample_rate, spec.window_ms, spec.hop_ms, spec.mels, spec.coefficients, spec.band_hz
    )
    # Every frame that hears the sound ends within two windows behind it, what Kaldi mirrors there included: those that
    # follow are not computed, they are known.
    reach = min(spec.samples, len(waveform) + 2 * int(spec.window_ms * spec.sample_rate / 1000))
    # Kaldi's scale is that of 16-bit integers; it keeps the energy floor far below speech.
    scaled = np.zeros(reach, np.float32)
    with np.errstate(over="ignore"):  # what becomes infinite, Kaldi refuses
        np.multiply(waveform, 32768, out=scaled[: len(waveform)])
    extractor = make(options)
    # A memoryview is read number by number; a list of all of them would be made first, and thrown away.
    try:
        extractor.accept_waveform(spec.sample_rate, scaled.data)
        extractor.input_finished()
    except RuntimeError as error:
        raise MmedgeError(
            f"the sound is too loud for its energies to be computed: its samples reach {abs(waveform).max():g}",
            todo="bring it to -1 to 1",
        ) from error
    computed = [extractor.get_frame(index) for index in range(min(spec.frames, extractor.num_frames_ready))]
    return np.array([*computed, *[silence] * (spec.frames - len(computed))], np.float32).T


@lru_cache(maxsize=16)
def _kaldi(
    features: str,
    sample_rate: int,
    window_ms: float,
    hop_ms: float,
    mels: int,
    coefficients: int,
    band_hz: tuple[float, float],
) -> tuple[Any, Any, np.ndarray]:
    """Kaldi's extractor, its options, and its frame of silence, float32 [bands]. An extractor itself takes one sound only."""
    import kaldi_native_fbank as kaldi

    if min(int(sample_rate * 0.001 * window_ms) // 2, int(sample_rate * 0.001 * hop_ms)) < 1:
        raise MmedgeError(
            f"windows of {window_ms:g} ms every {hop_ms:g} ms are shorter than the samples of a sound at {sample_rate} Hz",
            todo="raise window_ms and hop_ms",
        )
    options = kaldi.FbankOptions() if features == "logmel" else kaldi.MfccOptions()
    options.frame_opts.samp_freq = sample_rate
    options.frame_opts.frame_length_ms = window_ms
    options.frame_opts.frame_shift_ms = hop_ms
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = mels
    options.mel_opts.low_freq, options.mel_opts.high_freq = band_hz
    if features == "mfcc":
        options.num_ceps, options.use_energy = coefficients, False
    make = kaldi.OnlineFbank if features == "logmel" else kaldi.OnlineMfcc
    try:
        quiet = make(options)
    except ValueError as error:
        raise MmedgeError(
            f"{mels} mel bands are too many for windows of {window_ms:g} ms at {sample_rate} Hz: one holds no frequency",
            todo="lower mels, or raise window_ms",
        ) from error
    quiet.accept_waveform(sample_rate, [0.0] * int((window_ms + hop_ms) * sample_rate / 1000))
    quiet.input_finished()
    return make, options, np.array(quiet.get_frame(0))
