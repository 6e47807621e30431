"""A live loop on a bundle: frames from a camera or a folder, other modalities from folders, an answer for every frame."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmedge import runtime
from mmedge.runtime.stream import Stream


def frames(camera: int | None, folder: Path | None, fps: float) -> Iterator[Any]:
    """Pictures as ``engine.predict`` takes them, at ``fps`` a second."""
    if camera is None:
        for file in sorted(folder.iterdir()) if folder else ():
            yield file
            time.sleep(1 / fps)
        return
    import cv2  # only where there is a camera

    source = cv2.VideoCapture(camera)
    while True:
        got, picture = source.read()
        if not got:
            return
        yield picture[:, :, ::-1]  # BGR to RGB
        time.sleep(1 / fps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--camera", type=int, help="number of a camera; needs opencv-python")
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--max-age", type=float, default=1.0, help="seconds after which a value counts as missing")
    parser.add_argument("--target", default=None)
    given, rest = parser.parse_known_args()
    folders = {option.removeprefix("--"): Path(value) for option, value in zip(rest[::2], rest[1::2])}
    engine = runtime.load(given.bundle, given.target)
    engine.warm_up()
    picture = next((name for name, spec in engine.contract.modalities.items() if spec.kind == "image"), None)
    stream = Stream(engine, given.max_age)
    others = {name: itertools.cycle(sorted(folder.iterdir())) for name, folder in folders.items() if name != picture}
    for number, frame in enumerate(frames(given.camera, folders.get(str(picture)), given.fps)):
        stream.update(**{str(picture): frame})
        if number % max(1, round(given.fps)) == 0:  # once a second
            stream.update(**{name: next(files) for name, files in others.items()})
        started = time.perf_counter()
        answer = stream.predict()
        print(
            json.dumps(
                {
                    "frame": number,
                    **answer.prediction.record(),
                    "ages_s": {name: round(age, 3) for name, age in answer.ages_s.items()},
                    "stale": answer.stale,
                    "fusion_ms": round((time.perf_counter() - started) * 1000, 3),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
