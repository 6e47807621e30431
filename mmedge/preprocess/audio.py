"""Sounds: decode, mix, resample, trim or pad, then log-mel energies, MFCC, or the waveform itself."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmedge.errors import MmedgeError
from mmedge.preprocess import centred, mel
from mmedge.preprocess.values import opened, refuse_masked, where, window
from mmedge.spec import MOST_SAMPLES, AudioSpec

# A header that says less or more than this is damaged; resampling from it would fill the memory, or take for ever.
_RATES = (100, 10_000_000)
# Lengths from this on are those of writers into a pipe, who cannot know: 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x7FFFF000.
_UNKNOWN = 0x7FFFF000
# What Wav2Vec2FeatureExtractor adds to a variance.
_LEAST_VARIANCE = 1e-7
# The first and the third four bytes of WAV and AIFF files.
_CHUNKED = ((b"RIFF", b"WAVE"), (b"FORM", b"AIFF"), (b"FORM", b"AIFC"))


def features(spec: AudioSpec, value: Any, name: str) -> np.ndarray:
    """float32 [1, bands, frames], or [samples] of a waveform.

    ``value``: path, bytes, float [samples] at the spec's rate, or (samples, rate).
    """
    waveform, rate = _waveform(spec, value, name)
    if len(waveform) == 0:
        raise MmedgeError(f"the {name} has no samples", where=where(value), todo="leave the modality out")
    if not np.isfinite(waveform).all():
        raise MmedgeError(f"the {name} holds NaN or infinite samples", where=where(value))
    if not _RATES[0] <= rate <= _RATES[1]:
        raise MmedgeError(
            f"the {name}'s rate is {rate:g} Hz, which no sound has",
            where=where(value),
            todo="give it with its true rate",
        )
    _check_length(len(waveform) / rate * max(rate, spec.sample_rate), rate, value, name)
    if rate != spec.sample_rate:
        import soxr

        waveform = soxr.resample(waveform, rate, spec.sample_rate)
    waveform = waveform[window(len(waveform), spec.samples, spec.take)]
    if spec.features == "waveform":
        return _samples(spec, waveform)
    of = mel if spec.preset == "kaldi" else centred
    return of.features(spec, waveform)[None]


def _samples(spec: AudioSpec, waveform: np.ndarray) -> np.ndarray:
    """float32 [samples]: 0 behind a shorter sound, which is standardized without it."""
    out = np.zeros(spec.samples, np.float32)
    if spec.standardize:
        exact = waveform.astype(np.float64)
        waveform = ((exact - exact.mean()) / np.sqrt(exact.var() + _LEAST_VARIANCE)).astype(np.float32)
    out[: len(waveform)] = waveform
    return out


def _waveform(spec: AudioSpec, value: Any, name: str) -> tuple[np.ndarray, float]:
    """Mono float32 samples and their rate."""
    if isinstance(value, (str, Path, bytes, bytearray)):
        import soundfile

        try:
            with opened(value, name) as stream:
                _check_format(stream)
                # A file by its number: libsndfile then reads it itself, not through calls of Python.
                place = stream if isinstance(stream, io.BytesIO) else stream.fileno()
                if isinstance(place, int):
                    os.lseek(place, 0, os.SEEK_SET)  # what was looked at has been read ahead of it
                with soundfile.SoundFile(place, closefd=False) as sound:
                    rate, promised = sound.samplerate, sound.frames
                    _check_length(promised, rate, value, name)
                    samples = _read(sound, spec.channel, value, name)
                short = missing_bytes(stream)
                unsaid = 0 if len(samples) else _data_of_wav(stream)[1]
        except (soundfile.LibsndfileError, OSError, TypeError, MemoryError) as error:
            why = str(error).partition(": ")[2]
            why = "it is damaged, or of an unknown format" if "regular file" in why or not why else why
            raise MmedgeError(
                f"the {name} is not a sound that can be read: {why}",
                where=where(value),
                todo="give a WAV, FLAC, OGG, MP3 or AIFF file",
            ) from error
        if short or len(samples) < promised:
            what = f"{short} of the bytes" if short else f"{promised - len(samples)} of the {promised} samples"
            raise MmedgeError(
                f"the {name} is truncated: {what} that its header promises are not there",
                where=where(value),
                todo="copy it again, or leave it out",
            )
        if unsaid:
            raise MmedgeError(
                f"the {name}'s header says that it has no samples, and {unsaid} bytes follow: its writer did not finish it",
                where=where(value),
                todo="write it again with its length: sox or ffmpeg do, from one file to another",
            )
        return samples, rate
    pair = value if isinstance(value, tuple) else (value, spec.sample_rate)
    if len(pair) != 2 or not isinstance(pair[1], (int, float, np.integer, np.floating)):
        raise MmedgeError(f"{name} must be float samples [n], or a pair of them and their rate in Hz")
    refuse_masked(pair[0], name)
    samples, rate = np.asarray(pair[0]), pair[1]
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise MmedgeError(
            f"{name} must be float samples [n] (or a pair of them and their rate), not {samples.dtype} {list(samples.shape)}"
        )
    return samples.astype(np.float32), float(rate)


def _check_format(stream: BinaryIO) -> None:
    """Raise OSError for what is none of the formats that are told when truncated; libsndfile would read many more."""
    head = stream.read(12)
    stream.seek(0)
    named = head[:4] in (b"fLaC", b"OggS") or (head[:4], head[8:]) in _CHUNKED
    mp3 = head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2)
    if not named and not mp3:
        raise OSError("format: it is of an unknown format")


def _check_length(samples: float, rate: float, value: Any, name: str) -> None:
    if samples > MOST_SAMPLES:
        raise MmedgeError(
            f"the {name} has {samples:.3g} samples, more than {MOST_SAMPLES}: its rate of {rate:g} Hz is wrong, or it is too long",
            where=where(value),
            todo="give it with its true rate, or cut it into pieces",
        )


def _read(sound: Any, channel: int | None, value: Any, name: str) -> np.ndarray:
    """float32 [n] of a channel, or of the mean of all; a block at a time, so that many channels do not fill the memory."""
    if channel is not None and channel >= sound.channels:
        raise MmedgeError(
            f"the {name} has {sound.channels} channels, and channel {channel} is asked for", where=where(value)
        )
    if sound.channels == 1:
        return np.asarray(sound.read(dtype="float32"))
    blocks = []
    while len(block := sound.read(1 << 18, dtype="float32", always_2d=True)):
        blocks.append(block.mean(axis=1) if channel is None else block[:, channel].copy())
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def missing_bytes(stream: BinaryIO) -> int:
    """How many bytes a WAV or AIFF file's header, or an Ogg file's last page, promises that are not there.

    libsndfile reads these, truncated, without a word. 0 for other formats, which say so on decoding.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(8)
    if head[:4] == b"OggS":
        return _missing_of_page(stream, size)
    if head[:4] == b"FORM":  # AIFF: the whole file's size but for these 8 bytes
        promised = struct.unpack(">I", head[4:])[0] + 8 if len(head) == 8 else 0
        return 0 if promised >= _UNKNOWN else max(0, promised - size)
    promised, there = _data_of_wav(stream)
    if promised >= _UNKNOWN or promised in (size, size - 8):  # some writers give the whole file's size
        return 0
    return max(0, promised - there)


def _data_of_wav(stream: BinaryIO) -> tuple[int, int]:
    """The bytes of samples that a WAV file's header promises, and those that are there; (0, 0) of other formats."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return 0, 0
    while len(chunk := stream.read(8)) == 8:
        name, length = struct.unpack("<4sI", chunk)
        if name == b"data":
            return length, size - stream.tell()
        stream.seek(length + length % 2, io.SEEK_CUR)
    return 0, 0


def _missing_of_page(stream: BinaryIO, size: int) -> int:
    """Bytes that the last page of an Ogg file (RFC 3533) lacks. A page is 65,307 bytes at most."""
    stream.seek(max(0, size - 65_307 - 27))
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return 1
    return max(0, 27 + page[26] + sum(page[27 : 27 + page[26]]) - len(page))
