"""Spoken digits for the demo: a folder of real recordings, or synthetic voices where none is given."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmedge.errors import MissingDependency, MmedgeError

RATE = 8000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Official test split of the Free Spoken Digit Dataset: takes 0-4. Validation takes the next five.
_TEST_TAKES, _VALIDATION_TAKES = range(5), range(5, 10)
_ACCENTS = ("en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
_SYNTHETIC = {"train": 2400, "validation": 300, "test": 300}


@dataclass(frozen=True)
class Recording:
    """One spoken digit. ``samples``: float32 [n] at 8 kHz. ``group``: the unit that no two splits share."""

    digit: int
    split: str
    group: str
    samples: np.ndarray


def load_recordings(folder: Path) -> list[Recording]:
    """Read ``{digit}_{speaker}_{take}.wav`` files; takes 0-4 are the test split, 5-9 validation, the rest training."""
    import soundfile
    import soxr

    if not folder.is_dir():
        raise MmedgeError(
            "the folder of recordings does not exist",
            where=str(folder),
            todo="correct data.recordings or MMEDGE_RECORDINGS",
        )
    recordings: list[Recording] = []
    for path in sorted(folder.glob("*.wav")):
        named = re.fullmatch(r"(\d)_(.+)_(\d+)", path.stem)
        if not named:
            raise MmedgeError("a recording's name is not {digit}_{speaker}_{take}.wav", where=str(path))
        try:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise MmedgeError(f"cannot read a recording: {error}", where=str(path)) from error
        mono = soxr.resample(samples.mean(axis=1), rate, RATE)
        take = int(named[3])
        split = "test" if take in _TEST_TAKES else "validation" if take in _VALIDATION_TAKES else "train"
        recordings.append(Recording(int(named[1]), split, path.stem, mono.astype(np.float32)))
    for split in ("train", "validation", "test"):
        spoken = {r.digit for r in recordings if r.split == split}
        if spoken != set(range(10)):
            absent = sorted(set(range(10)) - spoken)
            raise MmedgeError(
                f"no {split} recording of digits {absent}",
                where=str(folder),
                todo="each split needs every digit: takes 0-4 test, 5-9 validation, 10 and up training",
            )
    return recordings


def synthesize_recordings(seed: int, progress: Callable[[int, int], None]) -> list[Recording]:
    """Speak the digits with espeak-ng in process: 7 accents x ~100 voice variants x rate x pitch, split by voice.

    ``progress(done, total)`` is called as utterances are made.
    Raises MissingDependency where the package espeakng-loader is not installed.
    """
    import soxr

    say, rate, variants = espeak(seed)
    rng = np.random.default_rng(seed)
    voices = [(accent, variant) for accent in _ACCENTS for variant in variants]
    rng.shuffle(voices)
    total = sum(_SYNTHETIC.values())
    # Voices are dealt to the splits in proportion to the utterances, so that no voice is heard in two.
    cuts = np.cumsum([round(len(voices) * count / total) for count in _SYNTHETIC.values()])
    recordings: list[Recording] = []
    for (split, count), voice_of_split in zip(_SYNTHETIC.items(), np.split(np.array(voices), cuts[:-1])):
        index, wanted = 0, len(recordings) + count
        while len(recordings) < wanted:
            accent, variant = voice_of_split[(index // 10) % len(voice_of_split)]
            spoken = say(
                DIGITS[index % 10], f"{accent}+{variant}", int(rng.integers(140, 240)), int(rng.integers(30, 75))
            )
            index += 1
            samples = soxr.resample(spoken, rate, RATE) if len(spoken) else spoken
            loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max()) if len(samples) else samples
            if len(loud) < RATE // 20:  # a few variants are mute for a word
                continue
            recordings.append(
                Recording((index - 1) % 10, split, f"{accent}+{variant}", samples[loud[0] : loud[-1] + 1])
            )
            progress(len(recordings), total)
    return recordings


def espeak(seed: int) -> tuple[Callable[[str, str, int, int], np.ndarray], int, list[str]]:
    """``say(text, voice, words_per_minute, pitch) -> float32 [n]``, its sample rate, and the voice variants.

    The same calls after the same ``seed`` give the same samples, where they are a process's first: espeak-ng keeps state.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise MissingDependency(
            "no recordings are named and the synthetic voices are not installed",
            todo="set data.recordings (or MMEDGE_RECORDINGS) to a folder of recordings, or: pip install 'mmedge[demo]'",
        ) from error
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = Path(espeakng_loader.get_data_path())
    chunks: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(wave, count, _events):
        if wave and count > 0:
            chunks.append(np.ctypeslib.as_array(wave, shape=(count,)).astype(np.float32) / 32768)
        return 0

    synchronous, utf8, rate_parameter, pitch_parameter = 2, 1, 1, 3
    sample_rate = library.espeak_Initialize(synchronous, 0, str(data.parent).encode(), 0)
    if sample_rate <= 0:
        raise MissingDependency("espeak-ng did not start", where=str(data), todo="reinstall espeakng-loader")
    library.espeak_SetSynthCallback(collect)
    library.espeak_ng_SetRandSeed(ctypes.c_long(seed))  # breath is noise

    current = ""

    def say(text: str, voice: str, words_per_minute: int, pitch: int) -> np.ndarray:
        nonlocal current
        chunks.clear()
        if voice != current:  # setting a voice costs more than speaking a word
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                return np.zeros(0, np.float32)
            current = voice
        library.espeak_SetParameter(rate_parameter, words_per_minute, 0)
        library.espeak_SetParameter(pitch_parameter, pitch, 0)
        encoded = text.encode() + b"\0"
        library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, utf8, None, None)
        return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)

    say.keep_alive = collect  # type: ignore[attr-defined]  # ctypes does not hold a reference to the callback
    return say, sample_rate, sorted(path.name for path in (data / "voices" / "!v").iterdir())
