"""Log-mel energies and MFCC by kaldi-native-fbank."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError
from mmedge.spec import AudioSpec


def features(spec: AudioSpec, waveform: np.ndarray) -> np.ndarray:
    """float32 [samples] -> float32 [bands, frames]; frames that the sound does not reach are silence.

    A Povey-windowed power spectrum on an HTK mel scale and its natural logarithm (Kaldi's fbank), and for MFCC its discrete
    cosine transform with Kaldi's lifter (Povey et al. 2011). Raises MmedgeError for options that no sound can have.
    """
    make, options, silence = _kaldi(
        spec.features, spec.sample_rate, spec.window_ms, spec.hop_ms, spec.mels, spec.coefficients
    )
    extractor = make(options)
    # Kaldi's scale is that of 16-bit integers; it keeps the energy floor far below speech. It takes a list fastest.
    extractor.accept_waveform(spec.sample_rate, (waveform * 32768).tolist())
    extractor.input_finished()
    out = np.full((spec.frames, spec.bands), silence, np.float32)
    for index in range(min(spec.frames, extractor.num_frames_ready)):
        out[index] = extractor.get_frame(index)
    return out.T


@lru_cache(maxsize=16)
def _kaldi(
    features: str, sample_rate: int, window_ms: float, hop_ms: float, mels: int, coefficients: int
) -> tuple[Any, Any, float]:
    """Kaldi's extractor, its options, and what it gives for silence. An extractor itself takes one sound only."""
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
    make, silence = kaldi.OnlineMfcc, 0.0
    if features == "logmel":
        make, silence = kaldi.OnlineFbank, float(np.log(options.energy_floor or np.finfo(np.float32).eps))
    else:
        options.num_ceps, options.use_energy = coefficients, False
    try:
        make(options)
    except ValueError as error:
        raise MmedgeError(
            f"{mels} mel bands are too many for windows of {window_ms:g} ms at {sample_rate} Hz: one holds no frequency",
            todo="lower mels, or raise window_ms",
        ) from error
    return make, options, silence
