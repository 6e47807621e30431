"""Writes a table and two streams with clocks of their own, for recipes/own-streams.yaml: exercises felt by a smartwatch.

    python recipes/own_streams.py runs/streams

``manifest.csv`` has a row for every two seconds of a recording: when it began, who wore the watch, which exercise it was, and
the file of its accelerometer. ``turns.csv`` is the gyroscope at 10 Hz on a clock that starts a little later and skips now and
then; ``effort.csv`` how strong the movement was, at 2 Hz. The recipe joins them by time. The recordings are seglearn's
(see recipes/watch.py; it comes with mmedge[demo]): 10 people, 50 Hz.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from watch import LENGTH, recordings

RATE = 50  # samples a second


def main(target: Path) -> None:
    rng = np.random.default_rng(0)
    watch = recordings()
    (target / "motion").mkdir(parents=True, exist_ok=True)
    tables = {name: [header] for name, header in HEADERS.items()}
    for number, signal in enumerate(watch["X"]):  # [time, 6]: acceleration, rotation
        person, exercise = int(watch["subject"][number]), watch["y_labels"][int(watch["y"][number])]
        for row, start in enumerate(range(0, len(signal) - LENGTH + 1, LENGTH)):
            file = f"motion/{number}-{row}.npy"
            np.save(target / file, signal[start : start + LENGTH, :3].T.astype(np.float32))
            tables["manifest"].append([(start + LENGTH / 2) / RATE, f"r{number}", f"person {person}", file, exercise])
        for start in range(3, len(signal), RATE // 10):
            if rng.random() > 0.1:  # the sensor skips
                turn = [f"{value:.4f}" for value in signal[start, 3:]]
                tables["turns"].append([round(start / RATE + rng.normal(0, 0.004), 4), f"r{number}", *turn])
        for start in range(0, len(signal), RATE // 2):
            strength = np.linalg.norm(signal[start : start + RATE // 2, :3], axis=1).std()
            tables["effort"].append([start / RATE, f"r{number}", f"{strength:.4f}"])
    for name, rows in tables.items():
        with (target / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
    print(f"{target / 'manifest.csv'}: {len(tables['manifest']) - 1} rows of {len(watch['X'])} recordings")


HEADERS = {
    "manifest": ["time", "recording", "person", "motion", "exercise"],
    "turns": ["seconds", "recording", "turn_x", "turn_y", "turn_z"],
    "effort": ["seconds", "recording", "effort"],
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
