"""A modality's samples, decoded once by the runtime's own code into mapped files: ``check`` looks at them, ``run`` goes on from them."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars
from pydantic import JsonValue, TypeAdapter

from mmedge import preprocess
from mmedge.artifact import code_hash, hash_json, sha256_of, write_json
from mmedge.data.manifest.faults import columns_of
from mmedge.data.manifest.source import present
from mmedge.data.store.content import content_of
from mmedge.data.store.decode import Chunk, Job, Modality, decode, unchanged
from mmedge.data.store.files import Files
from mmedge.data.store.forms import bytes_of
from mmedge.data.store.room import refuse_small_disk
from mmedge.data.store.rows import Rows, Shards, evenly
from mmedge.errors import MmedgeError
from mmedge.frozen import Record
from mmedge.preprocess.cells import value_of
from mmedge.progress import Progress
from mmedge.spec import ModalitySpec, TextSpec

# Stands for the content of a file that is not there or cannot be opened.
UNREADABLE = "unreadable"
# What a decoded value may depend on, beside the file and the spec.
_CODE = ("preprocess", "data/store", "spec")
# Stands beside what is decoded whole.
_STAMP = "decoded.json"
_SPEC: TypeAdapter[ModalitySpec] = TypeAdapter(ModalitySpec)
# Rows and bytes of the training split that statistics are fitted on at most, and rows at least.
_FITTED_ON, _FITTED_BYTES, _FITTED_LEAST = 50_000, 4 << 30, 2000
# And rows where samples are not decoded ahead.
_STREAM_FITTED = 2000


@dataclass(frozen=True)
class Decoded:
    """One modality of some splits. ``spec`` has its vocabulary fitted, and no statistics yet.

    ``key``: a hash of the spec that was asked for, the content and the code, wherever in the cache it was found;
    ``shards``: {split: its files}; ``faults``: {split: [(row of the split, what is wrong)]}; ``blank``: {split: rows of
    one value throughout}; ``tokens``: how many each text has, all splits together; ``constant``: a sensor's channels
    that never change; ``contents``: {split: a hash of what each row holds, None where the modality is missing};
    ``data``: a hash of them all.
    """

    key: str
    data: str
    folder: Path
    spec: ModalitySpec
    shards: dict[str, Shards]
    faults: dict[str, list[tuple[int, str]]]
    blank: dict[str, list[int]]
    tokens: list[int]
    constant: list[int]
    contents: dict[str, list[str | None]]


class _Stamp(Record):
    """What stands beside the files of a modality that is decoded whole."""

    code: str
    data: str
    spec: dict[str, JsonValue]
    forms: dict[str, str]
    hashes: dict[str, list[str]]
    faults: dict[str, list[tuple[int, str]]]
    blank: dict[str, list[int]]
    tokens: list[int]
    constant: list[int]


def decoded(
    name: str,
    spec: ModalitySpec,
    tables: Mapping[str, polars.DataFrame],
    folder: Path,
    cache: Path,
    workers: int | None,
    progress: Progress,
) -> Decoded:
    """Decode a modality into ``cache``, unless the same content was decoded by the same code before.

    ``tables``: a table a split, with "train" among them, whose relative paths are in ``folder``. Nothing raises for a file
    that cannot be decoded; MmedgeError is raised where no vocabulary can be fitted, and where the disk is too small.
    """
    contents = {split: _contents(name, spec, table, folder) for split, table in tables.items()}
    tokenizer = spec.tokenizer_file if isinstance(spec, TextSpec) else None
    read = sha256_of(tokenizer) if tokenizer and tokenizer.is_file() else ""
    code = code_hash(*_CODE)
    key = hash_json([spec.model_dump(mode="json", by_alias=True), read, code, contents])
    place = _fitted_before(name, spec, contents, code, cache) or cache / f"{name}-{key[:16]}"
    stamp, shards = _left(place, contents, progress)
    if stamp is None:
        place.mkdir(parents=True, exist_ok=True)
        for file in (place / _STAMP, place / "spec.json"):
            file.unlink(missing_ok=True)
        fitted = fit_vocabulary(name, spec, tables["train"], folder)
        left = sum(file.stat().st_size for file in place.glob("*.npy"))
        refuse_small_disk(sum(table.height for table in tables.values()) * bytes_of(fitted), place, left)
        modality, seen = Modality(name, fitted, folder), {}
        for split, table in tables.items():
            jobs = jobs_of(name, fitted, table)
            shards[split], seen[split] = decode(
                modality, jobs, table.height, place / split, workers=workers, progress=progress
            )
        stamp = _Stamp(
            code=code,
            data=hash_json(contents),
            spec=fitted.model_dump(mode="json", by_alias=True),
            forms={split: each.form for split, each in shards.items()},
            hashes={split: [chunk.sha256 for chunk in each] for split, each in seen.items()},
            faults={split: [fault for chunk in each for fault in chunk.faults] for split, each in seen.items()},
            blank={split: [row for chunk in each for row in chunk.blank] for split, each in seen.items()},
            tokens=[count for each in seen.values() for chunk in each for count in chunk.tokens],
            constant=_constant([chunk for each in seen.values() for chunk in each if chunk.lowest]),
        )
        write_json(place / _STAMP, stamp.record())
    return Decoded(
        key,
        stamp.data,
        place,
        type(spec).model_validate(stamp.spec),
        shards,
        stamp.faults,
        stamp.blank,
        stamp.tokens,
        stamp.constant,
        contents,
    )


def _left(
    place: Path, contents: Mapping[str, list[str | None]], progress: Progress
) -> tuple[_Stamp | None, dict[str, Shards]]:
    """What stands in a folder of the cache, where it is whole and nothing in it has changed."""
    try:
        stamp = _Stamp.model_validate_json((place / _STAMP).read_text(encoding="utf-8"))
        spec = _SPEC.validate_python(stamp.spec)
    except (OSError, ValueError):
        return None, {}
    shards = {
        split: Shards(place / split, stamp.forms[split], len(held), spec.shape) for split, held in contents.items()
    }
    for split, each in shards.items():
        rows = [row for row, held in enumerate(contents[split]) if held is not None]
        if not unchanged(each, rows, stamp.hashes[split]):
            progress.say(f"{place.name}: {split} is cut off or has changed; the samples are decoded again")
            return None, {}
    return stamp, shards


def _fitted_before(name: str, spec: ModalitySpec, contents: Any, code: str, cache: Path) -> Path | None:
    """Where the same content was fitted by the same code to this very spec, statistics and all.

    So it is with a teacher that was trained on the same data.
    """
    dumped, data = spec.model_dump(mode="json", by_alias=True), hash_json(contents)
    for stored in sorted(cache.glob(f"{name}-*/spec.json")):
        stamp = stored.parent / _STAMP
        record = json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() else {"data": None}
        if (record["data"], record.get("code")) == (data, code) and json.loads(
            stored.read_text(encoding="utf-8")
        ) == dumped:
            return stored.parent
    return None


def tensors(found: Decoded) -> tuple[ModalitySpec, dict[str, Rows]]:
    """The spec with statistics, and {split: its samples, normalised when they are read, 0 where missing}.

    Statistics are fitted on the training split: on all of it, or on ``_FITTED_ON`` of its rows, evenly spread, of which
    fewer where they come to more than ``_FITTED_BYTES``.
    """
    stored = found.folder / "spec.json"
    having_it = {split: np.array([held is not None for held in rows], bool) for split, rows in found.contents.items()}
    if not stored.is_file():
        train = Rows(found.spec, found.shards["train"], having_it["train"])
        having = np.setdiff1d(np.flatnonzero(having_it["train"]), [row for row, _ in found.faults["train"]])
        size = math.prod(found.spec.shape) * train.dtype.itemsize
        most = min(_FITTED_ON, max(_FITTED_LEAST, _FITTED_BYTES // size))
        spec = preprocess.fit_statistics(found.spec, train.raw(having[evenly(len(having), most)]))
        write_json(stored, spec.model_dump(mode="json", by_alias=True))
    spec = type(found.spec).model_validate_json(stored.read_text(encoding="utf-8"))
    return spec, {split: Rows(spec, shards, having_it[split]) for split, shards in found.shards.items()}


def streamed(
    name: str,
    spec: ModalitySpec,
    tables: Mapping[str, polars.DataFrame],
    folder: Path,
    cache: Path,
    workers: int | None,
    progress: Progress,
) -> tuple[Decoded, ModalitySpec, dict[str, Rows]]:
    """As ``decoded`` and ``tensors``, of samples that stay as they are: a few training samples are decoded to fit the spec."""
    few = tables["train"][evenly(tables["train"].height, _STREAM_FITTED)]
    one = decoded(name, spec, {"train": few}, folder, cache, workers, progress)
    fitted, _ = tensors(one)
    found = {}
    for split, table in tables.items():
        cells: list[tuple[Any, ...] | None] = [None] * table.height
        for row, each in jobs_of(name, fitted, table):
            cells[row] = each
        files = Files(name, fitted, folder, cells, table["id"].to_list(), strict=split != "train")
        found[split] = Rows(fitted, files, np.array([each is not None for each in cells], bool))
    return one, fitted, found


def forget_others(cache: Path, kept: list[Decoded]) -> None:
    """Delete what other data, or the same before it was redacted, left in the cache."""
    for place in cache.iterdir():
        stamp = place / _STAMP
        data = json.loads(stamp.read_text(encoding="utf-8"))["data"] if stamp.is_file() else None
        if data not in {found.data for found in kept}:
            shutil.rmtree(place, ignore_errors=True)


def fit_vocabulary(name: str, spec: ModalitySpec, train: polars.DataFrame, folder: Path) -> ModalitySpec:
    """The spec with its tokenizer or categories, fitted on the training split's cells."""
    return preprocess.fit_vocabulary(spec, (value_of(spec, cells, folder) for _, cells in jobs_of(name, spec, train)))


def jobs_of(name: str, spec: ModalitySpec, table: polars.DataFrame) -> list[Job]:
    """(index, cells) of the rows that have the modality."""
    there = table.select(present(name, spec))[:, 0].to_numpy()
    rows: list[tuple[Any, ...]] = table.select(*columns_of(name, spec)).rows()
    return [(index, rows[index]) for index in np.flatnonzero(there).tolist()]


def _contents(name: str, spec: ModalitySpec, table: polars.DataFrame, folder: Path) -> list[str | None]:
    out: list[str | None] = [None] * table.height
    for index, cells in jobs_of(name, spec, table):
        if spec.reads_file:
            try:
                digest = content_of(spec, folder / cells[0])
            except (OSError, MmedgeError):
                digest = None
            out[index] = hash_json([digest, *cells[1:]])[:32] if digest else UNREADABLE
        else:
            out[index] = hashlib.sha256(repr(cells).encode()).hexdigest()[:32]  # JSON takes eight times as long
    return out


def _constant(chunks: list[Chunk]) -> list[int]:
    """The channels that have one value in all of them."""
    if not chunks:
        return []
    lowest, highest = (np.min([c.lowest for c in chunks], axis=0), np.max([c.highest for c in chunks], axis=0))
    return [int(channel) for channel in np.flatnonzero(lowest == highest)]
