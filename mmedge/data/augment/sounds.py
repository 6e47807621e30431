"""Folders of sounds that others are changed by, and the unit of log energies."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmedge.data.store.rows import evenly
from mmedge.errors import MmedgeError
from mmedge.spec import AudioSpec

# What ten decibels are in log-mel features.
LOG_UNIT = {"kaldi": float(np.log(10)), "torchaudio": 10.0, "librosa": 10.0, "whisper": 0.25}
# Sounds of a folder that are taken at most, evenly over their names.
_MOST = 256
_ENDINGS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
# Key of an augmentation's section: (what its folder holds, what is taken without one).
_FOLDERS = {"noise_folder": ("noises", "white noise"), "room_folder": ("impulse responses", "simulated rooms")}


def log_unit(spec: AudioSpec) -> np.float32:
    """What a factor of e in energy is in log-mel features."""
    return np.float32(LOG_UNIT[spec.preset] / np.log(10))


def sound_files(folder: Path, key: str) -> list[Path]:
    """The sounds of a folder, by name. ``key`` asks for it. Raises MmedgeError where there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS) if folder.is_dir() else []
    if not found:
        what, without = _FOLDERS[key]
        raise MmedgeError(
            f"the folder of {what} {'holds no sounds' if folder.is_dir() else 'does not exist'}",
            where=str(folder),
            todo=f"put WAV, FLAC, OGG, MP3 or AIFF files there, or leave {key!r} out for {without}",
        )
    return found


def some_sounds(folder: Path, key: str) -> list[Path]:
    """``sound_files``, of many some."""
    files = sound_files(folder, key)
    return [files[k] for k in evenly(len(files), _MOST)]
