"""What a manifest's columns look like, and the modalities, target and preprocessing that they suggest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from keyword import iskeyword
from pathlib import Path
from typing import Any

import numpy as np
import polars

from mmedge.data.manifest import align
from mmedge.data.manifest.labels import labels_in
from mmedge.data.manifest.splits import SPELLINGS, UNITS
from mmedge.data.manifest.table import read_table
from mmedge.data.wizard.glimpse import TIMES, look
from mmedge.errors import UsageError, did_you_mean
from mmedge.recipe import TimedTable
from mmedge.recipe.data import RESERVED

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
# What names people, and is no feature of a sample.
_PERSONAL = re.compile(
    r"(^|_|\b)(name|surname|first_?name|last_?name|full_?name|e?mail|phone|address|ssn|passport|姓名|电话|地址|身份证)",
    re.IGNORECASE,
)
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ]\d\d?:\d\d.*)?|\d\d?[/.]\d\d?[/.]\d{2,4}( .*)?")
# Columns of a region of an image, with and without a prefix; a plus is a width or a height.
_BOXES = [
    ("left", "top", "right", "bottom"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("x", "y", "+w", "+h"),
    ("x", "y", "+width", "+height"),
    ("left", "top", "+width", "+height"),
]
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
# Cells that are looked at; the rest of a large manifest is taken to be like them.
_CELLS = 500


@dataclass(frozen=True)
class Column:
    """A column and its role.

    ``role``: image, audio, sensor, array, text, number, category, id, group, split, box, time, target or unused.
    """

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
    align: dict[str, dict[str, Any]] = field(default_factory=dict)


def propose(manifest: Path, target: str | None, streams: Sequence[Path] = ()) -> Proposal:
    """Look at every column, those of ``streams`` too, tables with times of their own, once they are joined.

    Raises UsageError where no target is seen, nothing that a model could take, or no time to join by.
    """
    table = read_table(manifest)
    folder = str(manifest.resolve().parent)
    aligned: dict[str, dict[str, Any]] = {}
    for stream in streams:
        name = _free(re.sub(r"\W", "_", stream.stem), aligned)
        aligned[name] = _stream(table, manifest, stream)
        files = [c for c in aligned[name]["columns"] if look(_some(read_table(stream)[c]), stream.resolve().parent)]
        table, _ = align.join(table, name, TimedTable(**aligned[name]), set(files), read_table)
    if target is not None and target not in table.columns:
        raise UsageError(
            f"the manifest has no column {target!r}{did_you_mean(target, table.columns)}; it has {', '.join(table.columns)}",
            where=str(manifest),
        )
    columns = {name: _column(table[name], Path(folder)) for name in table.columns}
    for keys in aligned.values():
        columns[keys["on"]] = Column(keys["on"], "time", "streams are joined by it")
    boxes = _boxes(columns)
    target = target or _target(columns, manifest)
    task, classes = _task(table[target], target, manifest)
    columns[target] = Column(target, "target", f"{task}, {classes} different values")
    ids = [c.name for c in columns.values() if c.role == "id" and not table[c.name].null_count()]
    groups = [c.name for c in columns.values() if c.role == "group" and c.name != target]
    splits = [c.name for c in columns.values() if c.role == "split"]
    modalities = _modalities(columns, boxes)
    if not modalities:
        whys = "; ".join(f"{c.name}: {c.why}" for c in columns.values() if c.role != "target")
        raise UsageError(
            f"no column is one that a model could take: no existing files, texts, numbers or categories ({whys})",
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
        manifest,
        table.height,
        tuple(columns.values()),
        modalities,
        target,
        task,
        classes,
        holes=holes,
        align=aligned,
        **first,
    )


def _reads(spec: dict[str, Any], name: str) -> list[str]:
    return [*spec.get("columns", []), *spec.get("categorical", [])] or [spec.get("column", name)]


def _column(cells: polars.Series, folder: Path) -> Column:
    name, known = cells.name, cells.drop_nulls()
    if not len(known):
        return Column(name, "unused", "it is empty")
    seen = _some(known)
    file = look(seen, folder)
    if isinstance(file, str):
        return Column(name, "unused", file)
    if file:
        return Column(name, file.role, f"paths of {file.role} files ({file.count} looked at)", file.facts)
    distinct = known.n_unique()
    if {str(cell).strip().lower() for cell in seen} <= SPELLINGS.keys() and distinct > 1:
        return Column(name, "split", f"it names splits: {', '.join(sorted(map(str, known.unique())))}")
    numeric = known.cast(polars.Float64, strict=False)
    is_number = bool(numeric.is_finite().fill_null(False).all())
    unique = distinct == len(known) and distinct > 2
    if not is_number and all(_DATE.fullmatch(cell.strip()) for cell in seen):
        return Column(name, "time", "dates or times: no feature as they are; data.align joins streams by them")
    named = bool(_ID.search(name))
    plain = is_number or all(re.fullmatch(r"\S+" if named else r"[\x21-\x7e]+", cell) for cell in seen)
    if unique and plain and (named or not is_number or bool((numeric.diff().drop_nulls() == 1).all())):
        return Column(name, "id", "every value is another")
    if UNITS.search(name) and distinct < len(known):
        if distinct >= 6:
            return Column(name, "group", f"{distinct} units: each is kept in one split")
        return Column(name, "unused", f"it names {distinct} units: too few to keep each in one split, and no feature")
    if _PERSONAL.search(name) and not is_number and distinct > len(known) // 2:
        return Column(name, "unused", "it seems to name people: no feature, and nothing of it is written anywhere")
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


def _some(cells: polars.Series) -> list[str]:
    known = cells.drop_nulls()
    return known.gather_every(max(1, len(known) // _CELLS)).to_list()


def _stream(table: polars.DataFrame, manifest: Path, stream: Path) -> dict[str, Any]:
    """Keys of ``data.align`` for a table with times: joined to the nearest row, no further than two of its steps away."""
    other = read_table(stream)
    times = [next((c for c in t.columns if c.lower() in TIMES), None) for t in (table, other)]
    for found, file, t in zip(times, (manifest, stream), (table, other)):
        if found is None:
            raise UsageError(
                f"no column of times to join by; there are {', '.join(t.columns)}",
                where=str(file),
                todo="call it time: seconds, or ISO 8601",
            )
    on, time = str(times[0]), str(times[1])
    shared = [c for c in table.columns if c in other.columns and c not in (on, time)]
    by = next((c for c in shared if UNITS.search(c) or _ID.search(c)), None)
    kept = [c for c in other.columns if c not in (time, by) and c not in table.columns]
    if not kept:
        raise UsageError("the stream has no column that the manifest lacks", where=str(stream), todo="rename them")
    seconds = other.select(*([by] if by else []), align.seconds(other, time, str(stream)).alias("_s")).drop_nulls()
    steps = seconds.sort("_s").select(polars.col("_s").diff().over(by) if by else polars.col("_s").diff()).to_series()
    steps = steps.filter(steps > 0)
    step = float(steps.median()) if len(steps) else 1.0  # type: ignore[arg-type]
    numeric = all(other[c].drop_nulls().cast(polars.Float64, strict=False).null_count() == 0 for c in kept)
    keys = {"file": stream.resolve(), "time": time, "on": on, "columns": kept, "tolerance": float(f"{2 * step:.3g}")}
    return {**keys, **({"by": by} if by else {}), "method": "linear" if numeric else "nearest"}


def _boxes(columns: dict[str, Column]) -> dict[str, list[str]]:
    """{column of an image's path: its box's columns}, whose roles become ``box``; only where there is one such column."""
    images = [c.name for c in columns.values() if c.role == "image"]
    if len(images) != 1:
        return {}
    lower = {name.lower(): name for name in columns}
    for prefix in ("", "bbox_", "box_", "roi_", "bb_", "region_", f"{images[0].lower()}_"):
        for names in _BOXES:
            found = [lower.get(prefix + name.removeprefix("+")) for name in names]
            if all(name and columns[name].role in ("number", "unused", "category", "id") for name in found):
                for name in found:
                    columns[str(name)] = Column(str(name), "box", f"an edge of the region of {images[0]}")
                return {images[0]: [("+" if name[0] == "+" else "") + str(f) for name, f in zip(names, found)]}
    return {}


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


def _free(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_2"
    return name


def _modalities(columns: dict[str, Column], boxes: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}

    def add(preferred: str, kind: str, keys: dict[str, Any]) -> None:
        good = preferred.isidentifier() and preferred.isascii() and not preferred.startswith("_")
        good = good and not iskeyword(preferred) and preferred not in RESERVED
        out[_free(preferred if good else kind, out)] = {"kind": kind, **keys}

    for column in columns.values():
        if column.role in ("image", "audio", "sensor", "array"):
            box = {"box": boxes[column.name]} if column.name in boxes else {}
            add(column.name, column.role, {"column": column.name, **column.facts, **box})
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
