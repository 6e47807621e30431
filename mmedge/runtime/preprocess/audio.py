"""Sounds: decode, mix, resample, trim or pad, log-mel energies or MFCC."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmedge.errors import MmedgeError
from mmedge.runtime.preprocess.values import existing, where, window
from mmedge.spec import AudioSpec


def features(spec: AudioSpec, value: Any, name: str) -> np.ndarray:
    """float32 [1, bands, frames]. ``value``: path, bytes, float [samples] at the spec's rate, or (samples, rate)."""
    waveform, rate = _waveform(spec, value, name)
    if len(waveform) == 0:
        raise MmedgeError(f"the {name} has no samples", where=where(value), todo="leave the modality out")
    if not np.isfinite(waveform).all():
        raise MmedgeError(f"the {name} holds NaN or infinite samples", where=where(value))
    if rate != spec.sample_rate:
        import soxr

        waveform = soxr.resample(waveform, rate, spec.sample_rate)
    fixed = np.zeros(spec.samples, np.float32)
    kept = waveform[window(len(waveform), spec.samples, spec.take)]
    fixed[: len(kept)] = kept
    return _bands(spec, fixed)[None]


def _waveform(spec: AudioSpec, value: Any, name: str) -> tuple[np.ndarray, int]:
    """Mono float32 samples and their rate."""
    if isinstance(value, (str, Path, bytes, bytearray)):
        import soundfile

        source = io.BytesIO(value) if isinstance(value, (bytes, bytearray)) else existing(value, name)
        try:
            samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
            with source.open("rb") if isinstance(source, Path) else source as stream:
                short = missing_bytes(stream)
        except (soundfile.LibsndfileError, OSError, TypeError) as error:
            raise MmedgeError(
                f"the {name} is not a sound that can be read: {error}",
                where=where(value),
                todo="give a WAV, FLAC, OGG or MP3 file",
            ) from error
        if short:
            raise MmedgeError(
                f"the {name} is truncated: {short} of the bytes that its header promises are not there",
                where=where(value),
                todo="copy it again, or leave it out",
            )
        if spec.channel is None:
            return samples.mean(axis=1), rate
        if spec.channel >= samples.shape[1]:
            raise MmedgeError(
                f"the {name} has {samples.shape[1]} channels, and channel {spec.channel} is asked for",
                where=where(value),
            )
        return np.ascontiguousarray(samples[:, spec.channel]), rate
    pair = value if isinstance(value, tuple) else (value, spec.sample_rate)
    if len(pair) != 2 or not isinstance(pair[1], (int, float, np.integer, np.floating)) or not pair[1] >= 1:
        raise MmedgeError(f"{name} must be float samples [n], or a pair of them and their rate in Hz, at least 1")
    samples, rate = np.asarray(pair[0]), pair[1]
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise MmedgeError(
            f"{name} must be float samples [n] (or a pair of them and their rate), not {samples.dtype} {list(samples.shape)}"
        )
    return samples.astype(np.float32), int(rate)


def missing_bytes(stream: BinaryIO) -> int:
    """How many bytes a WAV file's header promises that are not there; 0 for other formats, which say so on decoding.

    libsndfile reads a truncated WAV file without a word.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return 0
    while len(chunk := stream.read(8)) == 8:
        name, length = struct.unpack("<4sI", chunk)
        if name == b"data":
            promised = 0 if length == 0xFFFFFFFF else length  # a stream's writer did not know
            return max(0, stream.tell() + promised - size)
        stream.seek(length + length % 2, io.SEEK_CUR)
    return 0


def _bands(spec: AudioSpec, waveform: np.ndarray) -> np.ndarray:
    """[samples] -> [bands, frames]: Povey-windowed power spectrum on an HTK mel scale, natural log (Kaldi's fbank), and
    for MFCC its discrete cosine transform with Kaldi's lifter (Kaldi's mfcc)."""
    import kaldi_native_fbank as kaldi

    options = kaldi.FbankOptions() if spec.features == "logmel" else kaldi.MfccOptions()
    options.frame_opts.samp_freq = spec.sample_rate
    options.frame_opts.frame_length_ms = spec.window_ms
    options.frame_opts.frame_shift_ms = spec.hop_ms
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = spec.mels
    if spec.features == "logmel":
        extractor = kaldi.OnlineFbank(options)
        silence = np.log(options.energy_floor or np.finfo(np.float32).eps)
    else:
        options.num_ceps, options.use_energy = spec.coefficients, False
        extractor = kaldi.OnlineMfcc(options)
        silence = 0.0
    # Kaldi's scale is that of 16-bit integers; it keeps the energy floor far below speech.
    extractor.accept_waveform(spec.sample_rate, (waveform * 32768).tolist())
    extractor.input_finished()
    frames = np.stack([extractor.get_frame(index) for index in range(extractor.num_frames_ready)])
    out = np.full((spec.frames, spec.bands), silence, np.float32)
    out[: len(frames)] = frames[: spec.frames]
    return out.T
