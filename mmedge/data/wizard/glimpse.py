"""What some of the files of a manifest's column look like: their kind, and the preprocessing that suggests."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from mmedge.errors import MmedgeError, UsageError
from mmedge.preprocess import points, video
from mmedge.spec import ArraySpec, AudioSpec, ImageSpec, ModalitySpec, PointsSpec, SensorSpec, VideoSpec

# Names of a column of times.
TIMES = ("t", "time", "times", "timestamp", "ts", "seconds", "datetime", "date", "when", "时间", "时间戳")
# Names of files or folders of clouds, which .npy files may be as well as series.
_CLOUD = re.compile("point|cloud|lidar|velodyne|点云", re.IGNORECASE)
# Files that are looked at; the rest of a large manifest is taken to be like them.
_FILES = 40


@dataclass(frozen=True)
class Glimpse:
    """The preprocessing that the files suggest, of which ``count`` were looked at."""

    spec: ModalitySpec
    count: int


def look(seen: list[str], folder: Path, column: str = "") -> Glimpse | str | None:
    """What cells that look like paths lead to; a sentence where a model could not take it, None where they are no paths.

    Raises UsageError where the files are there under another spelling of their paths.
    """
    kinds = Counter(kind_of(cell) or "" for cell in seen)
    if not any(kinds[kind] for kind in KINDS) and len(set(seen)) > len(seen) / 2:  # not folders of classes
        kinds = Counter("video" if _is_folder(cell, folder) else "" for cell in seen)
    paths = len(seen) - kinds[""]
    if paths < 0.8 * len(seen):
        return None
    (kind, count), *others = [(name, count) for name, count in kinds.most_common() if name]
    if count < 0.8 * len(seen):
        mix = " and ".join(f"{number} of {name}" for name, number in [(kind, count), *others])
        return f"its cells are paths of several kinds of file ({mix}): give each kind a column"
    step = max(1, len(seen) // _FILES)
    there = [path for cell in seen[::step] if os.path.isfile(path := folder / cell) or os.path.isdir(path)]
    if not there:
        if meant := next((found for cell in seen[::step] if (found := spelled_otherwise(cell, folder))), None):
            raise UsageError(
                f"the paths of column {column!r} are not those of its files: {meant[0]!r} is {meant[1]!r}",
                where=str(folder),
                todo="write folders with / between them, and upper and lower case as the files have it",
            )
        return f"its cells look like {kind} files, and none of them exists"
    try:
        looked = KINDS[kind].look(there)
    except ValidationError as error:  # more channels than a spec may have, say
        first = error.errors()[0]
        return f"its files are beyond what a modality may be: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    return looked if isinstance(looked, str) else Glimpse(looked, len(there))


def kind_of(cell: str) -> str | None:
    """The kind of file that a path names, by its ending; None of another cell."""
    ending = os.path.splitext(cell)[1].lower()
    found = next((kind for kind, row in KINDS.items() if ending in row.endings), None)
    return "points" if found == "array" and _CLOUD.search(cell) else found


def _is_folder(cell: str, folder: Path) -> bool:
    return bool(cell.strip("./ ")) and os.path.isdir(folder / cell)


def spelled_otherwise(cell: str, folder: Path) -> tuple[str, str] | None:
    """(the cell, the path of the file that it means) where one is there but for \\ in place of / or upper and lower case."""
    path, parts = folder, cell.replace("\\", "/").split("/")
    for number, part in enumerate(parts):
        if part in ("", ".", "..") or (path / part).exists():
            path = Path("/") if number == 0 and part == "" else path / part
            continue
        try:
            alike = [name for name in os.listdir(path) if _folded(name) == _folded(part)]
        except OSError:
            return None
        if not alike:
            return None
        path = path / alike[0]
    return (cell, os.path.relpath(path, folder)) if path.is_file() and not os.path.isfile(folder / cell) else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _images(paths: list[Path]) -> ImageSpec | str:
    from PIL import Image

    sides, gray = [], []
    for path in paths:
        try:
            with Image.open(path) as picture:
                sides.append(min(picture.size))
                gray.append(picture.mode in ("1", "L", "LA", "I", "I;16"))
        except (OSError, SyntaxError, ValueError):
            continue
    if not sides:
        return "none of its image files can be read"
    middle = int(np.median(sides))
    side = middle if middle <= 32 else 48 if middle >= 48 else 32
    return ImageSpec(kind="image", height=side, width=side, channels=1 if all(gray) else 3)


def _sounds(paths: list[Path]) -> AudioSpec | str:
    import soundfile

    rates: Counter[int] = Counter()
    seconds = []
    for path in paths:
        try:
            info = soundfile.info(str(path))
        except (soundfile.LibsndfileError, OSError, TypeError):
            continue
        rates[info.samplerate] += 1
        seconds.append(info.frames / info.samplerate)
    if not seconds:
        return "none of its sound files can be read"
    rate = min(16000, rates.most_common(1)[0][0])
    long = float(np.percentile(seconds, 90))
    hop = 16 if long <= 2 else 32
    frames = int(np.clip(8 * np.ceil(1000 * long / hop / 8), 16, 128))
    mels = 32 if rate <= 8000 else 40
    return AudioSpec(kind="audio", sample_rate=rate, mels=mels, frames=frames, hop_ms=hop, window_ms=2 * hop)


def _arrays(paths: list[Path]) -> SensorSpec | ArraySpec | str:
    shapes = []
    for path in paths:
        try:
            shapes.append(np.load(path, mmap_mode="r", allow_pickle=False).shape)
        except (OSError, ValueError, EOFError):
            continue
    if not shapes:
        return "none of its .npy files can be read"
    if all(len(shape) == 2 for shape in shapes):  # the axis of one size, and the shorter one, holds the channels
        for axis, more in ((0, {}), (1, {"time_first": True})):
            channels = {shape[axis] for shape in shapes}
            length = int(np.median([shape[1 - axis] for shape in shapes]))
            if len(channels) == 1 and max(2, *channels) <= length:
                return SensorSpec(kind="sensor", channels=channels.pop(), length=min(length, 1000), **more)
    if len(set(shapes)) == 1:
        return ArraySpec.model_validate({"kind": "array", "shape": shapes[0]})
    return f"its arrays have several shapes: {list(shapes[0])}, {list(next(s for s in shapes if s != shapes[0]))}"


def _series(paths: list[Path]) -> SensorSpec | str:
    lengths, rates = [], []
    header: list[str] | None = None
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
            names = [cell.strip() for cell in rows[0]]
        except (OSError, UnicodeDecodeError, IndexError, csv.Error):
            continue
        if len(names) == 1 and ";" in names[0]:
            return "its files' columns are separated by ';': save them with commas"
        if all(re.fullmatch(r"[-+\d.eE]*", name) for name in names):
            return "its files have no header line: name their columns in a first line"
        try:
            values = np.array(rows[1:], float)
        except ValueError:
            continue
        if values.ndim != 2 or len(values) < 2 or (header is not None and names != header):
            continue
        header = names
        lengths.append(len(values))
        time = _time_of(names)
        if time:
            steps = np.diff(values[:, names.index(time)])
            rates.append(1 / float(np.median(steps)) if (steps > 0).all() else 0.0)
    if header is None:
        return "none of its files is a table of numbers with a header line (times are numbers too, in seconds)"
    time = _time_of(header)
    channels = [name for name in header if name != time]
    length = min(int(np.median(lengths)), 1000)
    spec = SensorSpec(kind="sensor", channels=len(channels), length=length, channel_columns=tuple(channels))
    if time and rates and min(rates) > 0:
        return spec.model_copy(update={"rate": float(f"{np.median(rates):.4g}"), "time_column": time})
    return spec


def _time_of(header: list[str]) -> str | None:
    return next((name for name in header if name.lower() in TIMES), None)


def _clouds(paths: list[Path]) -> PointsSpec | str:
    bare = PointsSpec(kind="points")
    counts = []
    for path in paths:
        try:
            counts.append(len(points.read(bare, path, "cloud")))
        except MmedgeError:
            continue
    if not counts:
        return "none of its clouds can be read: .npy and .bin files hold x, y, z and more for each point, in float32"
    most = 2 ** int(np.clip(np.ceil(np.log2(max(1, np.median(counts)))), 6, 10))
    extras = {"extras": ("intensity",)} if all(path.suffix.lower() == ".bin" for path in paths) else {}
    return PointsSpec.model_validate({"kind": "points", "points": most, **extras})


def _videos(paths: list[Path]) -> VideoSpec | str:
    """Drafted small: eight frames of as many pixels as an image is drafted with."""
    for path in paths:
        try:
            video.features(VideoSpec(kind="video", frames=1, height=8, width=8), path, "video")
        except MmedgeError as error:
            told = error
            continue
        return VideoSpec(kind="video", frames=8, height=48, width=48)
    return f"none of its videos can be read: {told.what}"


@dataclass(frozen=True)
class _Kind:
    """``endings``: of its files' names; ``look``: files that are there -> their preprocessing, or why there is none."""

    endings: frozenset[str]
    look: Callable[[list[Path]], ModalitySpec | str]


KINDS = {
    "image": _Kind(
        frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}), _images
    ),
    "audio": _Kind(frozenset({".wav", ".flac", ".ogg", ".oga", ".mp3", ".aiff", ".aif", ".opus"}), _sounds),
    "array": _Kind(frozenset({".npy"}), _arrays),
    "sensor": _Kind(frozenset({".csv", ".tsv"}), _series),
    "points": _Kind(frozenset({".ply", ".bin"}), _clouds),
    "video": _Kind(frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"}), _videos),
}
