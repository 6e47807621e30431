"""What a manifest's columns look like, and the modalities, target and preprocessing that they suggest."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars

from mmedge.data.labels import labels_in
from mmedge.data.source import read_table
from mmedge.errors import UsageError, did_you_mean

_EXTENSIONS = {
    "image": {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"},
    "audio": {".wav", ".flac", ".ogg", ".oga", ".mp3", ".aiff", ".aif", ".opus"},
    "array": {".npy"},
    "sensor": {".csv", ".tsv"},
}
_TARGETS = [
    "label",
    "labels",
    "target",
    "class",
    "category",
    "y",
    "emotion",
    "sentiment",
    "diagnosis",
    "outcome",
    "rating",
    "score",
    "price",
    "digit",
    "标签",
    "类别",
    "目标",
]
_ID = re.compile(r"(^|_|\b)(id|uuid|guid|key|index|nr|no|编号)($|_|\b)", re.IGNORECASE)
_GROUP = re.compile(
    r"speaker|subject|patient|person|user|device|session|participant|group|household|customer|client|^who$|客户|患者",
    re.IGNORECASE,
)
_SPLITS = {"train", "training", "validation", "val", "valid", "dev", "eval", "test"}
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
# Cells and files that are looked at; the rest of a large manifest is taken to be like them.
_CELLS, _FILES = 500, 40


@dataclass(frozen=True)
class Column:
    """A column and its ``role``: image, audio, sensor, array, text, number, category, id, group, split, target, unused."""

    name: str
    role: str
    why: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """``modalities``: {name: keys of its spec}; every row is kept, ``holes`` counts the empty cells by column."""

    manifest: Path
    rows: int
    columns: tuple[Column, ...]
    modalities: dict[str, dict[str, Any]]
    target: str
    task: str
    classes: int
    id: str | None
    group: str | None
    split: str | None
    holes: dict[str, int]


def propose(manifest: Path, target: str | None) -> Proposal:
    """Look at every column. Raises UsageError where no target is seen, or nothing that a model could take."""
    table = read_table(manifest)
    if target is not None and target not in table.columns:
        raise UsageError(
            f"the manifest has no column {target!r}{did_you_mean(target, table.columns)}; it has {', '.join(table.columns)}",
            where=str(manifest),
        )
    columns = {name: _column(table[name], manifest.resolve().parent) for name in table.columns}
    target = target or _target(columns, manifest)
    task, classes = _task(table[target], target, manifest)
    columns[target] = Column(target, "target", f"{task}, {classes} different values")
    ids = [c.name for c in columns.values() if c.role == "id" and not table[c.name].null_count()]
    groups = [c.name for c in columns.values() if c.role == "group" and c.name != target]
    splits = [c.name for c in columns.values() if c.role == "split"]
    modalities = _modalities(columns)
    if not modalities:
        raise UsageError(
            "no column is one that a model could take: no existing files, texts, numbers or categories",
            where=str(manifest),
            todo="paths must be relative to the manifest's folder, or absolute",
        )
    holes = {name: int(table[name].null_count()) for name in table.columns if table[name].null_count()}
    first = {
        "id": ids[0] if ids else None,
        "group": groups[0] if groups else None,
        "split": splits[0] if splits else None,
    }
    for name in ("id", "group"):  # a name that data.id or data.group keeps for itself
        if name in columns and first[name] != name and any(name in _reads(s, m) for m, s in modalities.items()):
            raise UsageError(f"a column named {name!r} is kept for data.{name}", where=str(manifest), todo="rename it")
    return Proposal(
        manifest, table.height, tuple(columns.values()), modalities, target, task, classes, holes=holes, **first
    )


def _reads(spec: dict[str, Any], name: str) -> list[str]:
    return [*spec.get("columns", []), *spec.get("categorical", [])] or [spec.get("column", name)]


def _column(cells: polars.Series, folder: Path) -> Column:
    name, known = cells.name, cells.drop_nulls()
    if not len(known):
        return Column(name, "unused", "it is empty")
    step = max(1, len(known) // _CELLS)
    seen = known.gather_every(step).to_list()
    file = _file_column(name, seen, folder)
    if file:
        return file
    distinct = known.n_unique()
    if {str(cell).lower() for cell in seen} <= _SPLITS and distinct > 1:
        return Column(name, "split", f"it names splits: {', '.join(sorted(map(str, known.unique())))}")
    numeric = known.cast(polars.Float64, strict=False)
    is_number = bool(numeric.is_finite().fill_null(False).all())
    unique = distinct == len(known) and distinct > 2
    plain = is_number or all(re.fullmatch(r"[\x21-\x7e]+", cell) for cell in seen)
    if unique and plain and (_ID.search(name) or not is_number or bool((numeric.diff().drop_nulls() == 1).all())):
        return Column(name, "id", "every value is another")
    if _GROUP.search(name) and 6 <= distinct < len(known):
        return Column(name, "group", f"{distinct} units: each is kept in one split")
    if distinct == 1:
        return Column(name, "unused", f"it is constant: {known[0]!r}")
    if is_number:
        return Column(name, "number", f"{distinct} different numbers", {"distinct": distinct})
    words = float(np.mean([len(cell.split()) for cell in seen]))
    if distinct <= max(2, min(50, len(known) // 4)) and words <= 4:
        return Column(name, "category", f"{distinct} different words", {"distinct": distinct})
    if words >= 1.5 or any(_CJK.search(cell) for cell in seen):
        tokens = [2 * len(cell.split()) + 2 * len(_CJK.findall(cell)) for cell in seen]
        vocabulary = len({word for cell in seen for word in cell.lower().split()} | set(_CJK.findall("".join(seen))))
        return Column(
            name,
            "text",
            f"free text, {words:.1f} words on average",
            {"length": float(np.percentile(tokens, 95)), "vocabulary": vocabulary},
        )
    return Column(name, "unused", f"{distinct} different words: too many for categories, too short for text")


def _file_column(name: str, seen: list[str], folder: Path) -> Column | None:
    kinds = Counter(
        next((kind for kind, ends in _EXTENSIONS.items() if Path(cell).suffix.lower() in ends), "") for cell in seen
    )
    kind, count = kinds.most_common(1)[0]
    if not kind or count < 0.8 * len(seen):
        return None
    step = max(1, len(seen) // _FILES)
    there = [path for cell in seen[::step] if (path := folder / cell).is_file()]
    if not there:
        return Column(name, "unused", f"its cells look like {kind} files, and none of them exists")
    looked = {"image": _images, "audio": _sounds, "array": _arrays, "sensor": _series}[kind](there)
    if looked is None:
        return Column(name, "unused", f"none of its {kind} files can be read")
    role, facts = looked
    return Column(name, role, f"paths of {role} files ({len(there)} looked at)", facts)


def _images(paths: list[Path]) -> tuple[str, dict[str, Any]] | None:
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
        return None
    middle = int(np.median(sides))
    side = middle if middle <= 32 else 48 if middle >= 48 else 32
    return "image", {"height": side, "width": side, "channels": 1 if all(gray) else 3}


def _sounds(paths: list[Path]) -> tuple[str, dict[str, Any]] | None:
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
        return None
    rate = min(16000, rates.most_common(1)[0][0])
    long = float(np.percentile(seconds, 90))
    hop = 16 if long <= 2 else 32
    frames = int(np.clip(8 * np.ceil(1000 * long / hop / 8), 16, 128))
    return "audio", {
        "sample_rate": rate,
        "mels": 32 if rate <= 8000 else 40,
        "frames": frames,
        "hop_ms": hop,
        "window_ms": 2 * hop,
    }


def _arrays(paths: list[Path]) -> tuple[str, dict[str, Any]] | None:
    shapes = []
    for path in paths:
        try:
            shapes.append(np.load(path, mmap_mode="r", allow_pickle=False).shape)
        except (OSError, ValueError, EOFError):
            continue
    if not shapes:
        return None
    channels = {shape[0] for shape in shapes if len(shape) == 2}
    if len(channels) == 1 and all(len(shape) == 2 for shape in shapes):
        length = int(np.median([shape[1] for shape in shapes]))
        if next(iter(channels)) <= length and length >= 2:
            return "sensor", {"channels": next(iter(channels)), "length": min(length, 1000)}
    return ("array", {"shape": list(shapes[0])}) if len(set(shapes)) == 1 else None


def _series(paths: list[Path]) -> tuple[str, dict[str, Any]] | None:
    lengths, rates, header = [], [], None
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
            names = [cell.strip() for cell in rows[0]]
            values = np.array(rows[1:], float)
        except (OSError, UnicodeDecodeError, ValueError, IndexError, csv.Error):
            continue
        if values.ndim != 2 or len(values) < 2 or (header is not None and names != header):
            continue
        header = names
        lengths.append(len(values))
        time = next((name for name in names if name.lower() in ("t", "time", "timestamp", "seconds")), None)
        if time:
            steps = np.diff(values[:, names.index(time)])
            rates.append(1 / float(np.median(steps)) if (steps > 0).all() else 0.0)
    if header is None:
        return None
    time = next((name for name in header if name.lower() in ("t", "time", "timestamp", "seconds")), None)
    channels = [name for name in header if name != time]
    facts: dict[str, Any] = {
        "channels": len(channels),
        "length": min(int(np.median(lengths)), 1000),
        "channel_columns": channels,
    }
    if time and rates and min(rates) > 0:
        facts |= {"rate": float(f"{np.median(rates):.4g}"), "time_column": time}
    return "sensor", facts


def _target(columns: dict[str, Column], manifest: Path) -> str:
    usable = {name: column for name, column in columns.items() if column.role in ("category", "number", "text")}
    for wanted in _TARGETS:
        for name in usable:
            if name.lower() == wanted:
                return name
    last = [name for name, column in usable.items() if column.role == "category"]
    if last:
        return last[-1]
    raise UsageError(
        f"no column looks like a target; there are {', '.join(columns)}",
        where=str(manifest),
        todo="name it with --target",
    )


def _task(cells: polars.Series, target: str, manifest: Path) -> tuple[str, int]:
    known = cells.drop_nulls()
    distinct = known.n_unique() if len(known) else 0
    if distinct < 2:
        raise UsageError(
            f"the target {target!r} has {distinct} different values",
            where=str(manifest),
            todo="name another with --target",
        )
    numbers = known.cast(polars.Float64, strict=False)
    if bool(numbers.is_finite().fill_null(False).all()):
        whole = bool((numbers == numbers.round()).all())
        if distinct > (20 if whole else 10):
            return "regression", distinct
    names = _several(known)
    if names:
        return "multilabel", names
    if distinct > max(2, len(known) // 2):
        raise UsageError(
            f"the target {target!r} has {distinct} different values in {len(known)} rows: too many for classes",
            where=str(manifest),
            todo="name another with --target",
        )
    return "classification", distinct


def _several(known: polars.Series) -> int:
    """How many labels the cells are made of, where each holds several; 0 where they do not."""
    rows = [labels_in(cell, ";") or frozenset() for cell in known]
    names = {name for row in rows for name in row}
    lists = all(cell.startswith("[") for cell in known)
    several = lists or sum(len(row) > 1 for row in rows) > 0.1 * len(rows)
    return len(names) if several and 2 <= len(names) <= max(2, len(rows) // 4) else 0


def _modalities(columns: dict[str, Column]) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}

    def add(preferred: str, kind: str, keys: dict[str, Any]) -> None:
        name = (
            preferred
            if preferred.isidentifier() and preferred.isascii() and preferred not in ("present", "inner")
            else kind
        )
        while name in out:
            name += "_2"
        out[name] = {"kind": kind, **keys}

    for column in columns.values():
        if column.role in ("image", "audio", "sensor", "array"):
            add(column.name, column.role, {"column": column.name, **column.facts})
        elif column.role == "text":
            length = int(np.clip(8 * np.ceil(column.facts["length"] / 8), 8, 128))
            vocabulary = int(np.clip(2 * column.facts["vocabulary"], 400, 4000))
            add(
                column.name,
                "text",
                {"column": column.name, "length": length, "tokenizer": "bpe", "vocabulary": vocabulary},
            )
    numbers = [column.name for column in columns.values() if column.role == "number"]
    words = [column.name for column in columns.values() if column.role == "category"]
    if numbers or words:
        keys = {key: names for key, names in (("columns", numbers), ("categorical", words)) if names}
        add("tabular", "tabular", keys)
    return out
