"""Writes a table as a user has one: pictures, sounds and numbers, with holes. For the README's "Your own data".

    python recipes/own_table.py runs/demo/data runs/table.csv

The files are the demo's. The numbers are measured from them: how much ink a digit has, how loud and how shrill a clip is.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

ROWS = 1500


def main(data: Path, target: Path) -> None:
    rng = np.random.default_rng(0)
    with (data / "train.csv").open(newline="") as stream:
        samples = list(csv.DictReader(stream))
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["sample", "picture", "clip", "ink", "loudness", "shrillness", "speaker_take", "digit"])
        for index in rng.permutation(len(samples))[:ROWS]:
            row = samples[index]
            picture, clip = data / row["image"], data / row["audio"]
            ink = np.asarray(Image.open(picture), np.float32).mean() / 255
            sound, _ = soundfile.read(clip)
            loudness, shrillness = np.sqrt((sound**2).mean()), (np.diff(np.sign(sound)) != 0).mean()
            cells = [str(picture.resolve()), str(clip.resolve()), *(f"{x:.4f}" for x in (ink, loudness, shrillness))]
            # A camera that was covered, a microphone that was unplugged, a sensor that skipped.
            cells = ["" if hole else cell for cell, hole in zip(cells, rng.random(5) < 0.12)]
            label = "" if rng.random() < 0.1 else row["label"]
            table.writerow([row["id"].replace(row["label"], "x", 1), *cells, row["group"], label])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
