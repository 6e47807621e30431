"""Writes sounds as WAV files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np


def write_wav(path: Path, samples: np.ndarray, rate: int, subtype: str) -> None:
    """Write ``samples`` (float32 [n] or [n, channels], -1 to 1) of so many Hz; ``subtype``: soundfile's, as PCM_16 or FLOAT."""
    import soundfile

    # Through memory: soundfile waits for the disk at the end of each file that it writes itself, some milliseconds.
    sound = io.BytesIO()
    soundfile.write(sound, samples, rate, subtype=subtype, format="WAV")
    path.write_bytes(sound.getvalue())
