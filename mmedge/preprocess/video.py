"""Videos: evenly spread frames of a file, of a folder of images or of an array, each preprocessed as an image is."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MissingDependency, MmedgeError
from mmedge.preprocess import image
from mmedge.preprocess.values import opened, refuse_masked, where
from mmedge.spec import VideoSpec

# A longer video is no input of an edge model; what decodes it reads all that comes before its last frame.
MOST_SECONDS = 600
# Of frames, in a file or a folder: ten minutes at a hundred a second.
MOST_FRAMES = 60_000
# What is opened: FFmpeg knows more, some of which fetches what a file names.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,ogg,flv,gif,asf"
# Of uint8 pixels [height, width, 3] the features of an image.
Made = Callable[[np.ndarray], np.ndarray]
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm")


def features(spec: VideoSpec, value: Any, name: str) -> np.ndarray:
    """float32 [frames, channels, height, width] in 0 to 1.

    ``value``: a path of a video file or of a folder of images in the order of their names' numbers, bytes of a file, or uint8
    pixels [time, height, width(, 1|3|4)].
    """

    def made(pixels: Any) -> np.ndarray:
        return image.features(spec.frame, pixels, f"{name} frame")

    if isinstance(value, (str, Path)) and os.path.isdir(value):
        return np.stack([made(file) for file in _files(Path(value), spec.frames, name)])
    if isinstance(value, (str, Path, bytes, bytearray)):
        return np.stack(_decoded(value, spec.frames, name, made))
    refuse_masked(value, name)
    pixels = np.asarray(value)
    if pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise MmedgeError(
            f"{name} must be [time, height, width] or [time, height, width, 1|3|4], not {list(pixels.shape)}"
        )
    return np.stack([made(pixels[place]) for place in places(len(pixels), spec.frames)])


def places(count: int, wanted: int) -> list[int]:
    """The middle of each of ``wanted`` equal parts of ``count`` frames."""
    return [int((number + 0.5) * count / wanted) for number in range(wanted)]


def _files(folder: Path, wanted: int, name: str) -> list[Path]:
    found = sorted((entry for entry in os.listdir(folder) if entry.lower().endswith(_IMAGES)), key=_numbered)
    if not found:
        raise MmedgeError(f"the {name} is a folder without images", where=str(folder), todo="name a folder of frames")
    _check_count(len(found), name, folder)
    return [folder / found[place] for place in places(len(found), wanted)]


def _numbered(file: str) -> list[tuple[int, str]]:
    """A name's order: frame_2 is before frame_10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", file)]


def _check_count(count: int, name: str, value: Any) -> None:
    if count > MOST_FRAMES:
        raise MmedgeError(
            f"the {name} has {count:,} frames, more than {MOST_FRAMES:,}", where=where(value), todo="cut it"
        )


def _decoded(value: str | Path | bytes | bytearray, wanted: int, name: str, made: Made) -> list[np.ndarray]:
    """What is ``made`` of each frame that is wanted, as soon as it is decoded: many whole ones would fill the memory."""
    try:
        import av
    except ImportError as error:
        raise MissingDependency(
            "PyAV, which reads videos, is not installed", todo="pip install 'mmedge[video]', or give a folder of images"
        ) from error
    with opened(value, name) as stream:
        try:
            # A playlist in disguise would lead to other files; these demuxers alone are tried.
            with av.open(stream, options={"format_whitelist": FORMATS}) as container:
                if not container.streams.video:
                    raise MmedgeError(f"the {name} holds no video", where=where(value))
                count = _counted(container, name, value)
                return _frames(container, places(count, wanted), name, value, made)
        except av.error.FFmpegError as error:
            raise MmedgeError(
                f"the {name} is not a video that can be read: {error.strerror or error}",
                where=where(value),
                todo="copy it again, or save it as MP4 or WebM",
            ) from error


def _counted(container: Any, name: str, value: Any) -> int:
    """How many frames there are, without decoding any; MmedgeError of too long or too large ones."""
    stream = container.streams.video[0]
    if stream.width * stream.height > image.MAX_PIXELS:
        raise MmedgeError(
            f"the {name} has {stream.width} x {stream.height} pixels, more than {image.MAX_PIXELS}", where=where(value)
        )
    seconds = max(
        float(container.duration or 0) / 1_000_000,
        float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0,
    )
    if seconds > MOST_SECONDS:
        raise MmedgeError(
            f"the {name} lasts {seconds:.0f} s, and {MOST_SECONDS} is the most",
            where=where(value),
            todo="cut it to what counts",
        )
    count = 0
    for packet in container.demux(stream):
        count += packet.size > 0 and not packet.is_discard  # which the file says is not shown
        _check_count(count, name, value)
    if not count:
        raise MmedgeError(f"the {name} holds no frame", where=where(value))
    container.seek(0)
    return count


def _frames(container: Any, wanted: list[int], name: str, value: Any, made: Made) -> list[np.ndarray]:
    """What is ``made`` of the frames of these numbers, in order; of the last that there is where a file has fewer than it says."""
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    often, found = Counter(wanted), list[np.ndarray]()
    last = None
    for number, frame in enumerate(container.decode(stream)):
        if frame.width * frame.height > image.MAX_PIXELS:
            raise MmedgeError(f"the {name} has frames of {frame.width} x {frame.height} pixels", where=where(value))
        last = frame
        if often[number]:
            found += [made(_upright(frame))] * often[number]
        if len(found) == len(wanted):
            return found
    if last is None:
        raise MmedgeError(f"the {name} holds no frame that can be decoded", where=where(value))
    return found + [made(_upright(last))] * (len(wanted) - len(found))


def _upright(frame: Any) -> np.ndarray:
    """uint8 [height, width, 3], turned as the file says that it is shown."""
    pixels = frame.to_ndarray(format="rgb24")
    return (
        np.rot90(pixels, round((getattr(frame, "rotation", 0) or 0) / 90)) if getattr(frame, "rotation", 0) else pixels
    )
