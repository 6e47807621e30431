"""Exercises felt by a smartwatch: accelerometer and gyroscope, 10 people, 7 exercises. For recipes/watch*.yaml.

    python recipes/watch.py runs/watch.npz

The recordings come with seglearn (Burns & Whyne, BSD; Burns et al. 2018, "Shoulder physiotherapy exercise recognition"),
which mmedge[demo] installs: 140 series at 50 Hz. Its file is a pickled array, so it is opened here once, only where its SHA-256 is the known one, and
written as plain arrays. mmedge itself unpickles nothing.
"""

import hashlib
import importlib.util
import sys
from pathlib import Path

import numpy as np

SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
LENGTH, STEP = 100, 50  # samples: windows of two seconds, a new one each second
AHEAD = 25  # samples: the half second after a window
# People, so that nobody is in two splits.
PEOPLE = {"train": (1, 3, 5, 7, 9, 10), "validation": (2,), "test": (4, 6, 8)}


class Windows:
    """Map-style: a window of two seconds, ``motion`` [3, 100] in g and ``rotation`` [3, 100] in rad/s, its exercise and the
    arm; ``following`` [25, 6], both sensors in the half second after it, None at a recording's end."""

    def __init__(self, arrays: Path, split: str) -> None:
        with np.load(arrays) as stored:
            chosen = np.isin(stored["person"], PEOPLE[split])
            self.series, self.label, self.side, self.recording, self.following = (
                stored[name][chosen] for name in ("series", "label", "side", "recording", "following")
            )
        self.split = split

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> dict:
        return {
            "id": f"{self.split}-{index}",
            "motion": self.series[index, :3],
            "rotation": self.series[index, 3:],
            "exercise": str(self.label[index]),
            "arm": str(self.side[index]),
            "following": self.following[index] if np.isfinite(self.following[index]).all() else None,
            "recording": str(self.recording[index]),
        }


def build(split: str, arrays: str) -> Windows:
    """``data.dataset``: called once for each of train, validation and test, with ``data.args``."""
    if not Path(arrays).is_file():
        raise FileNotFoundError(f"there is no {arrays}: run python recipes/watch.py {arrays}")
    return Windows(Path(arrays), split)


def recordings() -> dict:
    """seglearn's recordings, read only where the file is the known one: {"X": series [time, 6], "y", "subject", …}."""
    package = importlib.util.find_spec("seglearn")
    if package is None or package.origin is None:
        sys.exit("seglearn is not installed: pip install 'mmedge[demo]'")
    source = Path(package.origin).parent / "data" / "watch_dataset.npy"
    if hashlib.sha256(source.read_bytes()).hexdigest() != SHA256:
        sys.exit(
            f"{source} is not the file this script knows: it is not opened, since opening it runs what is pickled in it"
        )
    return np.load(source, allow_pickle=True).item()


def main(target: Path) -> None:
    watch = recordings()
    series, label, side, person, recording, following = [], [], [], [], [], []
    for number, signal in enumerate(watch["X"]):  # [time, 6]
        for start in range(0, len(signal) - LENGTH + 1, STEP):
            series.append(signal[start : start + LENGTH].T)
            label.append(watch["y_labels"][int(watch["y"][number])])
            side.append(f"arm {int(watch['side'][number])}")  # as the recordings number the two arms
            person.append(int(watch["subject"][number]))
            recording.append(number)
            after = signal[start + LENGTH :][:AHEAD]
            following.append(after if len(after) == AHEAD else np.full((AHEAD, 6), np.nan))
    target.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"series": np.array(series, np.float32), "label": label, "side": side, "person": person}
    arrays["following"] = np.array(following, np.float32)
    np.savez(target, **arrays, recording=recording)
    print(f"{target}: {len(label)} windows of {len(watch['X'])} recordings")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
