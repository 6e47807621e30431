"""What a manifest's columns look like, and the modalities, target and preprocessing that they suggest."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from keyword import iskeyword
from pathlib import Path
from typing import Any

import polars
from pydantic import JsonValue

from mmedge.data.manifest import align
from mmedge.data.manifest.splits import UNITS
from mmedge.data.manifest.table import read_table
from mmedge.data.wizard.columns import ID, Column, as_numbers, judged, missing, numeric, some
from mmedge.data.wizard.glimpse import TIMES, look
from mmedge.errors import UsageError, brief, did_you_mean
from mmedge.recipe import TimedTable
from mmedge.recipe.data import RESERVED
from mmedge.spec import ModalitySpec, TabularSpec
from mmedge.tasks import TASKS
from mmedge.tasks.multilabel import labels_in

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
# The task whose target is a text that is written.
WRITTEN = next(name for name, task in TASKS.items() if task.CODES)
_TWIN = "each of its values stands beside one of the target's: is it the target by another name? Then take it out"


@dataclass(frozen=True)
class Proposal:
    """``align``: streams by name, ``file`` with its whole path; every row is kept, ``holes`` counts the empty cells by column."""

    manifest: Path
    rows: int
    columns: tuple[Column, ...]
    modalities: dict[str, ModalitySpec]
    target: str
    task: str
    classes: int
    id: str | None
    group: str | None
    split: str | None
    holes: dict[str, int]
    align: dict[str, TimedTable] = field(default_factory=dict)


@dataclass(frozen=True)
class Wishes:
    """What the user says of the table; None where the columns are to tell. ``streams``: tables with times of their own."""

    target: str | None = None
    task: str | None = None
    group: str | None = None
    streams: Sequence[Path] = ()


def propose(manifest: Path, wishes: Wishes = Wishes()) -> Proposal:  # frozen
    """Look at every column, those of streams too, once they are joined.

    Raises UsageError where no target is seen, nothing that a model could take, or no time to join by.
    """
    table = read_table(manifest)
    folder = manifest.resolve().parent
    _check_header(table.columns, manifest)
    table, aligned = _with_streams(table, manifest, wishes.streams)
    for named in (wishes.target, wishes.group):
        if named is not None and named not in table.columns:
            there = brief(", ".join(table.columns), 400, quoted=False)
            raise UsageError(
                f"the manifest has no column {named!r}{did_you_mean(named, table.columns)}; it has {there}",
                where=str(manifest),
            )
    numbers = numeric(table)
    columns = {name: judged(table[name], numbers.get(name), folder) for name in table.columns}
    for stream in aligned.values():
        columns[stream.on] = Column(stream.on, "time", "streams are joined by it")
    if wishes.group:
        columns[wishes.group] = Column(wishes.group, "group", "named by --group: its equal rows stay in one split")
    boxes = _boxes(columns)
    target = wishes.target or _target(columns, manifest)
    task, classes, why = _task(table[target], target, manifest, wishes.task)
    columns[target] = Column(target, "target", f"{task}, {classes} different values{why}", columns[target].spec)
    columns |= {name: replace(columns[name], question=_TWIN) for name in _twins(columns, table, target, classes)}
    modalities = _modalities(columns, boxes)
    if not modalities:
        whys = "; ".join(f"{c.name}: {c.why}" for c in columns.values() if c.role != "target")
        raise UsageError(
            "no column is one that a model could take: no existing files, texts, numbers or categories"
            f" ({brief(whys, 600, quoted=False)})",
            where=str(manifest),
            todo="paths must be relative to the manifest's folder, or absolute",
        )
    first = _keys(columns, table, target, wishes.group)
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
        holes={name: count for name, (count,) in table.null_count().to_dict(as_series=False).items() if count},
        align=aligned,
        **first,
    )


def _twins(columns: dict[str, Column], table: polars.DataFrame, target: str, classes: int) -> list[str]:
    """The features that have one value for each of the target's, and the other way round."""
    alike = [c.name for c in columns.values() if c.role in ("category", "number") and c.distinct == classes]
    return [name for name in alike if table.select(name, target).drop_nulls().n_unique() == classes]


def _check_header(names: Sequence[str], manifest: Path) -> None:
    """Raise UsageError where the first line is no header but a sample."""
    numbers = [name.strip() for name in names if re.fullmatch(r"[-+]?\d+([.,]\d+)?", name.strip())]
    counted = len(numbers) > 1 and all(
        after.isdigit() and before.isdigit() and int(after) == int(before) + 1 for before, after in pairwise(numbers)
    )
    files = [name for name in names if "." in name and os.path.isfile(manifest.resolve().parent / name)]
    if files or (numbers and not counted):  # columns that are numbered are a header all the same
        raise UsageError(
            f"the first line is no header: it holds {brief((files or numbers)[0])}, as a sample would",
            where=str(manifest),
            todo="write the columns' names into a first line of their own",
        )


def _with_streams(
    table: polars.DataFrame, manifest: Path, streams: Sequence[Path]
) -> tuple[polars.DataFrame, dict[str, TimedTable]]:
    """The table with the streams' columns, and ``data.align``."""
    aligned: dict[str, TimedTable] = {}
    for stream in streams:
        name = _free(re.sub(r"\W", "_", stream.stem), aligned)
        aligned[name] = _stream(table, manifest, stream)
        files = [c for c in aligned[name].columns if look(some(read_table(stream)[c]), stream.resolve().parent)]
        table, _ = align.join(table, name, aligned[name], set(files), read_table)
    return table, aligned


def _keys(columns: dict[str, Column], table: polars.DataFrame, target: str, group: str | None) -> dict[str, str | None]:
    """The columns of ids, groups and splits, the first of each; a column without a name can be none of them."""

    def first(role: str) -> str | None:
        return next((c.name for c in columns.values() if c.role == role and c.name not in ("", target)), None)

    ids = [c.name for c in columns.values() if c.role == "id" and c.name and not table[c.name].null_count()]
    return {"id": ids[0] if ids else None, "group": group or first("group"), "split": first("split")}


def _reads(spec: ModalitySpec, name: str) -> list[str]:
    return [*spec.columns, *spec.categorical] if isinstance(spec, TabularSpec) else [spec.column or name]


def _stream(table: polars.DataFrame, manifest: Path, stream: Path) -> TimedTable:
    """A table with times as ``data.align`` takes it: joined to the nearest row, no further than two of its steps away."""
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
    by = next((c for c in shared if UNITS.search(c) or ID.search(c)), None)
    kept = [c for c in other.columns if c not in (time, by) and c not in table.columns]
    if not kept:
        raise UsageError("the stream has no column that the manifest lacks", where=str(stream), todo="rename them")
    seconds = other.select(*([by] if by else []), align.seconds(other, time, str(stream)).alias("_s")).drop_nulls()
    steps = seconds.sort("_s").select(polars.col("_s").diff().over(by) if by else polars.col("_s").diff()).to_series()
    steps = steps.filter(steps > 0)
    step = float(steps.median()) if len(steps) else 1.0  # type: ignore[arg-type]
    numeric = all(other[c].drop_nulls().cast(polars.Float64, strict=False).null_count() == 0 for c in kept)
    joined = TimedTable(
        file=stream.resolve(),
        time=time,
        on=on,
        columns=tuple(kept),
        method="linear" if numeric else "nearest",
        tolerance=float(f"{2 * step:.3g}"),
    )
    return joined.model_copy(update={"by": by}) if by else joined


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
    named = usable | {name: column for name, column in columns.items() if column.role == "unused" and column.distinct}
    for wanted in _TARGETS:
        for name in named:
            if name.lower() == wanted:
                return name
    last = [name for name, column in usable.items() if column.role == "category"]
    if last:
        return last[-1]
    like = next((column for column in columns.values() if column.name.lower() in _TARGETS), None)
    raise UsageError(
        f"no column looks like a target{f' ({like.name}: {like.why})' if like else ''}; there are {', '.join(columns)}",
        where=str(manifest),
        todo="name it with --target",
    )


def _task(cells: polars.Series, target: str, manifest: Path, wished: str | None) -> tuple[str, int, str]:
    """The task, how many classes or values there are, and what its user may want to know."""
    known = cells.drop_nulls()
    distinct = known.n_unique() if len(known) else 0
    other = "name another with --target"
    if distinct < 2:
        raise UsageError(f"the target {target!r} has {distinct} different values", where=str(manifest), todo=other)
    numbers = as_numbers(known)
    task = TASKS[wished] if wished else None
    if task and task.AMONG:
        raise UsageError(
            f"init drafts no {wished}: its rows are pairs, and no column is predicted",
            todo="copy recipes/emoji-retrieval.yaml",
        )
    arrays = bool(known.str.to_lowercase().str.ends_with(".npy").all())
    if arrays and not wished:
        wished, task = next((name, task) for name, task in TASKS.items() if task.FILES)
    if task and task.FILES:
        if not arrays and not bool(known.str.starts_with("[").all()):
            raise UsageError(f"the target {target!r} holds no paths of .npy files", where=str(manifest), todo=other)
        return str(wished), distinct, ": arrays" if arrays else ": lists"
    if task and task.CODES:
        return str(wished), distinct, ": texts"
    if task and not task.LABELS and numbers is None:
        raise UsageError(f"the target {target!r} holds no numbers", where=str(manifest), todo=other)
    if wished and task and task.LABELS and not task.SEVERAL:
        return wished, distinct, missing(known)
    if numbers is not None and not (task and task.SEVERAL):
        whole = bool((numbers == numbers.round()).all())
        if wished or distinct > (20 if whole else 10):
            return "regression", distinct, "; for classes say --task classification" if whole and not wished else ""
    names = _several(known, wished is not None)
    if names:
        return "multilabel", names, "" if wished else "; where a cell is one class, say --task classification"
    if distinct > max(2, len(known) // 2):
        raise UsageError(
            f"the target {target!r} has {distinct} different values in {len(known)} rows: too many for classes",
            where=str(manifest),
            todo=f"{other}; or have it written, token by token: --task {WRITTEN}",
        )
    return "classification", distinct, missing(known)


def _several(known: polars.Series, wished: bool = False) -> int:
    """How many labels the cells are made of, where each holds several; 0 where they do not.

    A name with the separator in it, whose parts stand nowhere else, is one class: "a;b" beside "c".
    """
    rows = [labels_in(cell, ";") or frozenset() for cell in known]
    names = {name for row in rows for name in row}
    if wished:
        return len(names)
    lists = all(cell.startswith("[") for cell in known)
    combined = Counter(name for row in set(rows) for name in row)
    several = lists or (sum(len(row) > 1 for row in rows) > 0.1 * len(rows) and max(combined.values(), default=0) > 1)
    return len(names) if several and 2 <= len(names) <= max(2, len(rows) // 4) else 0


def _free(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_2"
    return name


def _modalities(columns: dict[str, Column], boxes: dict[str, list[str]]) -> dict[str, ModalitySpec]:
    out: dict[str, ModalitySpec] = {}

    def add(preferred: str, spec: ModalitySpec) -> None:
        good = preferred.isidentifier() and preferred.isascii() and not preferred.startswith("_")
        good = good and not iskeyword(preferred) and preferred not in RESERVED
        out[_free(preferred if good else spec.kind, out)] = spec

    for column in columns.values():
        if column.spec is not None and column.role == column.spec.kind:
            box = {"box": tuple(boxes[column.name])} if column.name in boxes else {}
            add(column.name, column.spec.model_copy(update={"column": column.name, **box}))
    numbers = tuple(column.name for column in columns.values() if column.role == "number")
    words = tuple(column.name for column in columns.values() if column.role == "category")
    if numbers or words:
        keys = {key: names for key, names in (("columns", numbers), ("categorical", words)) if names}
        add("tabular", TabularSpec(kind="tabular", **keys))
    return out


def keys_of(spec: ModalitySpec) -> dict[str, JsonValue]:
    """What a recipe says of a modality: no more than was concluded."""
    keys = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return {name: keys[name] for name in ("kind", "column") if name in keys} | keys
