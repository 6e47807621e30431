"""A modality's samples, decoded once by the runtime's own code into mapped files: ``check`` looks at them, ``run`` goes on from them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars

from mmedge import preprocess
from mmedge.artifact import code_hash, hash_json, sha256_of, write_json
from mmedge.data.manifest.faults import columns_of
from mmedge.data.manifest.source import present
from mmedge.data.store.decode import Fault, Job, Modality, created, decode
from mmedge.preprocess.cells import value_of
from mmedge.progress import Progress
from mmedge.spec import ModalitySpec, SensorSpec, TabularSpec, TextSpec

# Stands for the content of a file that is not there or cannot be opened.
UNREADABLE = "unreadable"
# What a decoded value may depend on, beside the file and the spec.
_CODE = ("preprocess", "data/store/decode.py", "data/store/tensors.py", "spec")


@dataclass(frozen=True)
class Decoded:
    """One modality of some splits. ``spec`` has its vocabulary fitted, and no statistics yet.

    ``key``: a hash of the spec that was asked for, the content and the code, wherever in the cache it was found;
    ``faults``: {split: [(row of the split, what is wrong)]}; ``blank``: {split: rows of one value throughout};
    ``tokens``: how many each text has, all splits together; ``constant``: a sensor's channels that never change;
    ``contents``: {split: a hash of what each row holds, None where the modality is missing}; ``data``: a hash of them
    all.
    """

    key: str
    data: str
    folder: Path
    spec: ModalitySpec
    faults: dict[str, list[tuple[int, str]]]
    blank: dict[str, list[int]]
    tokens: list[int]
    constant: list[int]
    contents: dict[str, list[str | None]]


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
    that cannot be decoded; MmedgeError is raised where no vocabulary can be fitted.
    """
    contents = {split: _contents(name, spec, table, folder) for split, table in tables.items()}
    tokenizer = spec.tokenizer_file if isinstance(spec, TextSpec) else None
    read = sha256_of(tokenizer) if tokenizer and tokenizer.is_file() else ""
    code = code_hash(*_CODE)
    key = hash_json([spec.model_dump(mode="json", by_alias=True), read, code, contents])
    place = _fitted_before(name, spec, contents, code, cache) or cache / f"{name}-{key[:16]}"
    stamp = place / "decoded.json"
    whole = (place / "spec.json").is_file() or all(_raw(place, split).is_file() for split in tables)
    if not (stamp.is_file() and whole):
        fitted = fit_vocabulary(name, spec, tables["train"], folder)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        seen = [
            _decode_split(Modality(name, fitted, folder), table, _raw(place, split), workers, progress)
            for split, table in tables.items()
        ]
        record = {
            "code": code,
            "data": hash_json(contents),
            "spec": fitted.model_dump(mode="json", by_alias=True),
            "faults": {split: one.faults for split, one in zip(tables, seen)},
            "blank": {split: one.blank for split, one in zip(tables, seen)},
            "tokens": [count for one in seen for count in one.tokens],
            "constant": _constant([one.limits for one in seen if one.limits]),
        }
        write_json(stamp, record)
    record = json.loads(stamp.read_text(encoding="utf-8"))
    return Decoded(
        key,
        record["data"],
        place,
        type(spec).model_validate(record["spec"]),
        {split: [(row, what) for row, what in found] for split, found in record["faults"].items()},
        record["blank"],
        record["tokens"],
        record["constant"],
        contents,
    )


def _fitted_before(name: str, spec: ModalitySpec, contents: Any, code: str, cache: Path) -> Path | None:
    """Where the same content was fitted by the same code to this very spec, statistics and all.

    So it is with a teacher that was trained on the same data.
    """
    dumped, data = spec.model_dump(mode="json", by_alias=True), hash_json(contents)
    for stored in sorted(cache.glob(f"{name}-*/spec.json")):
        stamp = stored.parent / "decoded.json"
        record = json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() else {"data": None}
        if (record["data"], record.get("code")) == (data, code) and json.loads(
            stored.read_text(encoding="utf-8")
        ) == dumped:
            return stored.parent
    return None


def tensors(found: Decoded, tables: Mapping[str, polars.DataFrame]) -> tuple[ModalitySpec, dict[str, np.ndarray]]:
    """The spec with the training split's statistics, and {split: [N, *shape], normalised, 0 where missing}."""
    stored = found.folder / "spec.json"
    if not stored.is_file():
        there = {split: [row for row, held in enumerate(rows) if held] for split, rows in found.contents.items()}
        train = np.load(_raw(found.folder, "train"), mmap_mode="r")
        spec = preprocess.fit_statistics(found.spec, (train[row] for row in there["train"]))
        for split in tables:
            raw = np.load(_raw(found.folder, split), mmap_mode="r")
            part = found.folder / f"{split}.part.npy"
            values = created(part, raw.dtype, raw.shape)
            for row in there[split]:
                values[row] = preprocess.normalise(spec, raw[row])
            values.flush()
            part.replace(found.folder / f"{split}.npy")
        write_json(stored, spec.model_dump(mode="json", by_alias=True))
    for split in tables:  # again: the process that wrote the last one may have been killed
        _raw(found.folder, split).unlink(missing_ok=True)
    spec = type(found.spec).model_validate_json(stored.read_text(encoding="utf-8"))
    return spec, {split: np.load(found.folder / f"{split}.npy", mmap_mode="r") for split in tables}


def forget_others(cache: Path, kept: list[Decoded]) -> None:
    """Delete what other data, or the same before it was redacted, left in the cache."""
    for place in cache.iterdir():
        stamp = place / "decoded.json"
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
            try:  # only of files: reading a pipe would wait for ever
                digest = sha256_of(folder / cells[0]) if os.path.isfile(folder / cells[0]) else None
            except OSError:
                digest = None
            out[index] = hash_json([digest, *cells[1:]])[:32] if digest else UNREADABLE
        else:
            out[index] = hash_json(cells)[:32]
    return out


@dataclass(frozen=True)
class _Looked:
    """What can be seen in a split: the lists of ``Decoded``, and a sensor's channels' (lowest, highest) values."""

    faults: list[Fault]
    blank: list[int]
    tokens: list[int]
    limits: tuple[list[float], list[float]] | None


def _decode_split(
    modality: Modality, table: polars.DataFrame, target: Path, workers: int | None, progress: Progress
) -> _Looked:
    """Write the split's array to ``target``, and look at it."""
    spec = modality.spec
    jobs = jobs_of(modality.name, spec, table)
    faults = decode(modality, jobs, table.height, target, workers=workers, progress=progress)
    bad = {row for row, _ in faults}
    good = [row for row, _ in jobs if row not in bad]
    values = np.load(target, mmap_mode="r")
    files = not isinstance(spec, (TextSpec, TabularSpec))
    blank = [row for row in good if np.ptp(values[row]) == 0] if files else []
    varied = [row for row in good if row not in set(blank)]
    limits = None
    if isinstance(spec, SensorSpec) and varied:
        lowest = np.min([values[row].min(axis=1) for row in varied], axis=0)
        limits = (lowest.tolist(), np.max([values[row].max(axis=1) for row in varied], axis=0).tolist())
    tokens = [int((values[row] != spec.pad).sum()) for row in good] if isinstance(spec, TextSpec) else []
    return _Looked(faults, blank, tokens, limits)


def _constant(ranges: list[tuple[list[float], list[float]]]) -> list[int]:
    if not ranges:
        return []
    lowest, highest = np.min([low for low, _ in ranges], axis=0), np.max([high for _, high in ranges], axis=0)
    return [int(channel) for channel in np.flatnonzero(lowest == highest)]


def _raw(place: Path, split: str) -> Path:
    return place / f"{split}.raw.npy"
