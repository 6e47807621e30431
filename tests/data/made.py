"""A small task of five kinds of modality, of real files: crops of two photographs, sounds, texts, tables and series."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

TEXTS = {
    "temple": [
        "a temple under a pale sky",
        "red walls, 红墙和屋顶",
        "roofs of an old palace 宫殿",
        "stairs lead to the Temple",
    ],
    "flower": [
        "a yellow flower 🌼",
        "petals in the sun, 阳光下的花瓣",
        "a blossom and its leaves",
        "one Flower among green leaves",
    ],
}
COLUMNS = ["picture", "sound", "words", "weight", "height", "colour", "motion", "who", "kind"]


def five_kinds(folder: Path, rows: int = 60, *, holes: bool = True) -> Path:
    """Write files and ``manifest.csv`` under ``folder``; the target is ``kind``, and with ``holes`` every column has some."""
    from sklearn.datasets import load_sample_images

    photographs = dict(zip(("temple", "flower"), load_sample_images().images))
    rng = np.random.default_rng(0)
    for name in ("p", "s", "m"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    table: list[list[Any]] = [COLUMNS]
    for row in range(rows):
        label = ("temple", "flower")[row % 2]
        top, left = rng.integers(0, 300), rng.integers(0, 500)
        Image.fromarray(photographs[label][top : top + 40, left : left + 40]).save(folder / f"p/{row}.png")
        time = np.arange(4000) / 8000
        tone = 0.3 * np.sin(2 * np.pi * (400 + 300 * (row % 2) + rng.integers(0, 40)) * time)
        soundfile.write(folder / f"s/{row}.wav", (tone + 0.05 * rng.standard_normal(4000)).astype(np.float32), 8000)
        np.save(folder / f"m/{row}.npy", (rng.standard_normal((2, 50)) + row % 2).astype(np.float32))
        cells: list[Any] = [
            f"p/{row}.png",
            f"s/{row}.wav",
            f"{TEXTS[label][row // 2 % 4]} no. {row}",
            round(float(rng.normal(10 + row % 2)), 3),
            round(float(rng.normal(5)), 3),
            ("red", "green", "blue")[row % 3],
            f"m/{row}.npy",
            f"person {row // 4}",
            label,
        ]
        if holes:
            for column, period in enumerate((7, 5, 6, 4, 9, 8, 10)):
                if row % period == column % period:
                    cells[column] = ""
        table.append(cells)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(table)
    return folder / "manifest.csv"


MODALITIES: dict[str, dict[str, Any]] = {
    "picture": {"kind": "image", "height": 16, "width": 16},
    "sound": {"kind": "audio", "sample_rate": 8000, "mels": 16, "frames": 24, "hop_ms": 16, "window_ms": 32},
    "words": {"kind": "text", "length": 12, "vocabulary": 400},
    "facts": {"kind": "tabular", "columns": ["weight", "height"], "categorical": ["colour"], "missing_indicator": True},
    "motion": {"kind": "sensor", "channels": 2, "length": 40},
}


def recipe_values(manifest: Path, **data: Any) -> dict[str, Any]:
    """Plain values of a tiny recipe over ``five_kinds``."""
    widths = {"picture": [4, 8], "sound": [4, 8], "words": [8, 8], "facts": [8], "motion": [4, 8]}
    model = {"encoders": {name: {"widths": sizes} for name, sizes in widths.items()}, "embedding": 8, "hidden": 8}
    train = {"epochs": 1, "batch_size": 8}
    return {
        "schema": 1,
        "name": "five",
        "data": {"manifest": str(manifest), "target": "kind", "modalities": MODALITIES, **data},
        "teacher": {"model": model, "train": train},
        "distill": {"model": model, "train": train, "controls": {"seeds": 1}},
    }


def write_table(path: Path, rows: list[list[Any]]) -> Path:
    """A CSV of ``rows``, the first being the header."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return path


def parsed(values: dict[str, Any]) -> Any:
    """The Recipe of plain values."""
    from mmedge import recipe

    return recipe.parse(values, where=Path("test.yaml"))
