"""A live loop on a bundle: values from a camera or from folders, one a modality, and an answer for every frame.

The frames are the camera's, or the pictures of ``--image FOLDER``; for a bundle without pictures, the first folder that is
named. Every other modality brings a value a second: --audio FOLDER, --vitals FOLDER, as the bundle names them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmedge import runtime
from mmedge.errors import MissingDependency, MmedgeError, UsageError
from mmedge.runtime.stream import Stream


def camera_frames(number: int) -> Iterator[Any]:
    """Pictures of a camera, uint8 [height, width, 3]."""
    try:
        import cv2  # only where there is a camera
    except ImportError as error:
        raise MissingDependency("a camera needs OpenCV", todo="pip install opencv-python") from error
    source = cv2.VideoCapture(number)
    if not source.isOpened():
        raise MmedgeError(f"there is no camera {number}", todo="name another one, or --image FOLDER")
    while True:
        got, picture = source.read()
        if not got:
            return
        yield picture[:, :, ::-1]  # BGR to RGB


def files(folder: str) -> list[Path]:
    """The files of a folder, in order."""
    path = Path(folder)
    found = sorted(path.iterdir()) if path.is_dir() else []
    if not found:
        raise argparse.ArgumentTypeError(f"{folder} is no folder with files in it")
    return found


def value(kind: str, file: Path) -> Any:
    """What ``engine.predict`` takes of a file: its path, a text itself, or a table's cells, which are JSON."""
    if kind == "text":
        return file.read_text(encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8")) if kind == "tabular" else file


def parsed(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, runtime.Engine]:
    """The options, of which the bundle has one a modality, and the bundle's engine."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--camera", type=int, help="number of a camera; needs opencv-python")
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--max-age", type=float, default=1.0, help="seconds after which a value counts as missing")
    parser.add_argument("--target", default=None)
    known, _ = parser.parse_known_args(arguments)
    engine = runtime.load(known.bundle, known.target)
    for name in engine.contract.modalities:
        parser.add_argument(f"--{name}", dest=f"from_{name}", type=files, metavar="FOLDER")
    given = parser.parse_args(arguments)
    if not given.fps > 0:
        parser.error("--fps is above 0")
    return given, engine


def main(arguments: Sequence[str] | None = None) -> int:
    given, engine = parsed(arguments)
    kinds = {name: spec.kind for name, spec in engine.contract.modalities.items()}
    sources: dict[str, Iterable[Any]] = {
        name: [value(kind, file) for file in found]
        for name, kind in kinds.items()
        if (found := getattr(given, f"from_{name}"))
    }
    pictures = next((name for name, kind in kinds.items() if kind == "image"), None)
    if given.camera is not None and pictures:
        sources[pictures] = camera_frames(given.camera)
    if not sources:
        raise UsageError("there is nothing to answer on", todo=f"--{next(iter(kinds))} FOLDER")
    beat = pictures if pictures in sources else next(iter(sources))
    frames = sources.pop(beat)
    others = {name: itertools.cycle(found) for name, found in sources.items()}
    engine.warm_up()
    stream = Stream(engine, given.max_age)
    for number, frame in enumerate(frames):
        stream.update(**{beat: frame})
        if number % max(1, round(given.fps)) == 0:  # once a second
            stream.update(**{name: next(found) for name, found in others.items()})
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
        time.sleep(1 / given.fps)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MmedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
