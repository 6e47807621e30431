"""Raw files and cells to shards on the disk, in this process or, where it pays, in several; a kill loses a few samples."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, pairwise
from multiprocessing import active_children, current_process, get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mmedge import preprocess
from mmedge.data.store.forms import forms, packed
from mmedge.data.store.rows import Shards, evenly
from mmedge.errors import MmedgeError
from mmedge.machine import cores
from mmedge.preprocess.cells import value_of
from mmedge.progress import Progress
from mmedge.spec import ModalitySpec, SensorSpec, TabularSpec, TextSpec

# Rows that are timed in this process before it is decided whether other processes pay for their start (about a second).
_TRIED = 32
_WORTH_SECONDS = 5.0
# Samples that are decoded, hashed and noted together: what a kill loses.
_CHUNK = 64
# Bytes of small samples that are: more at once, so that a million rows of numbers are not ten thousand notes.
_CHUNK_BYTES = 1 << 16
# Bytes of small samples that are packed and written together.
_TOGETHER = 1 << 18
# Bytes of a split that are held against their hashes when it is opened again: all of most, of a large one evenly spread.
_CHECKED = 64 << 20

_T = TypeVar("_T")
# (index of the row, its cells); rows whose modality is missing are not listed.
Job = tuple[int, tuple[Any, ...]]
# (index of the row, what is wrong with it)
Fault = tuple[int, str]


@dataclass(frozen=True)
class Modality:
    """A modality of a table; relative paths in its cells are in ``folder``."""

    name: str
    spec: ModalitySpec
    folder: Path


@dataclass(frozen=True)
class Chunk:
    """What was seen in some rows, one after another in the table, and the sha256 of what was written of them.

    ``faults``: rows that could not be decoded; ``blank``: rows of one value throughout; ``tokens``: how many each text
    has; ``lowest``, ``highest``: of a sensor's channels, in rows that are not blank.
    """

    first: int
    sha256: str = ""
    faults: list[Fault] = field(default_factory=list)
    blank: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    lowest: list[float] = field(default_factory=list)
    highest: list[float] = field(default_factory=list)


class _Misfit(Exception):
    """A sample that the form on the disk would not give back as it is."""


def decode(
    modality: Modality, jobs: list[Job], rows: int, base: Path, *, workers: int | None, progress: Progress
) -> tuple[Shards, list[Chunk]]:
    """Write ``raw_features`` of every job into the files of ``base``, in the smallest form that holds them all.

    Rows without a job, and those that cannot be decoded, are 0. Nothing is held in memory but one sample a process. What an
    interrupted call has written and noted in ``base.jsonl`` is not decoded again, unless it has changed since. ``workers``
    None: all cores, where the first rows' time says that it is worth their start. Raises MmedgeError where the disk is full.
    """
    # A worker of ours imports the caller's script first. One without a main guard would decode again in there, over the
    # parent's files; it ends here instead, and the parent goes on alone. multiprocessing marks that phase so.
    if getattr(current_process(), "_inheriting", False):
        raise MmedgeError("a worker process ran the whole script again", todo="guard it: if __name__ == '__main__':")
    all_forms = forms(modality.spec)
    begun = next((form for form in all_forms if _header(base.with_suffix(".jsonl")) == _noting(form)), all_forms[0])
    for form in all_forms[all_forms.index(begun) :]:
        shards = Shards(base, form, rows, modality.spec.shape)
        try:
            return shards, _written(modality, _chunks(jobs, shards.shape), shards, workers, progress)
        except _Misfit:
            continue
    raise AssertionError("the last form holds whatever it is")


def unchanged(shards: Shards, rows: list[int], hashes: list[str]) -> bool:
    """Whether the files hold what was written of ``rows``, those with a job, as far as is looked at."""
    chunks = _chunks(rows, shards.shape)
    if not shards.whole() or len(chunks) != len(hashes):
        return False
    size = _chunk(shards.shape) * int(np.prod(shards.shape)) * np.dtype(shards.form).itemsize
    looked, left = evenly(len(chunks), max(1, _CHECKED // max(1, size))), replace(shards)
    return all(_sound(left, chunks[number], hashes[number]) for number in looked)


def _chunk(shape: tuple[int, ...]) -> int:
    """How many samples of a shape are decoded together."""
    return max(_CHUNK, _CHUNK_BYTES // (4 * max(1, int(np.prod(shape)))))


def _chunks(jobs: list[_T], shape: tuple[int, ...]) -> list[list[_T]]:
    """What is decoded together, of samples of a shape; the first ones tell how long it takes."""
    bounds = [0, *range(_TRIED, len(jobs), _chunk(shape)), len(jobs)]
    return [jobs[start:end] for start, end in pairwise(bounds) if start < end]


def _written(
    modality: Modality, chunks: list[list[Job]], shards: Shards, workers: int | None, progress: Progress
) -> list[Chunk]:
    noted = shards.base.with_suffix(".jsonl")
    done = _noted(noted, shards, chunks)
    if not done:
        _created(shards)
        noted.write_text(_noting(shards.form) + "\n", encoding="utf-8")
    left = [chunk for chunk in chunks if chunk[0][0] not in done]
    total = sum(map(len, chunks))
    began, count = time.monotonic(), total - sum(map(len, left))
    with noted.open("a", encoding="utf-8") as notes:
        for found, size, status in _decoded(modality, left, shards, workers, progress):
            done[found.first] = found
            notes.write(json.dumps(asdict(found)) + "\n")
            notes.flush()
            count += size
            rate = f"{count / max(1e-3, time.monotonic() - began):.0f} a second" if size else ""
            progress.step(f"preprocessing {modality.name}", count, total, f"{rate}{status}")
    noted.unlink()
    return [done[chunk[0][0]] for chunk in chunks]


def _decoded(
    modality: Modality, left: list[list[Job]], shards: Shards, workers: int | None, progress: Progress
) -> Iterator[tuple[Chunk, int, str]]:
    """(what was seen in a chunk that is now written, its rows, who does it), in order."""
    began, work = time.monotonic(), iter(left)
    for chunk in islice(work, 1):
        yield decode_rows(modality, chunk, shards), len(chunk), ""
    rest = list(work)
    expected = (time.monotonic() - began) / max(1, len(left[0]) if left else 1) * sum(map(len, rest))
    count = workers or (cores() if expected > _WORTH_SECONDS else 1)
    if count > 1 and len(rest) > 1:
        try:
            others = active_children()
            # Forked from a server that holds no threads: torch, which the caller has imported, does not survive a fork.
            with ProcessPoolExecutor(min(count, len(rest)), get_context("forkserver")) as pool:
                try:
                    found = pool.map(decode_rows, *zip(*((modality, chunk, shards) for chunk in rest)))
                    for done, seen in enumerate(found, 1):
                        yield seen, len(rest[done - 1]), f", {count} processes"
                        work = iter(rest[done:])
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)
                    # One that waits for work may have died with the lock of the queue: the others would never hear of the end.
                    for worker in set(active_children()) - set(others):
                        worker.kill()
            return
        except BrokenProcessPool:
            progress.say("worker processes could not start or died, of memory perhaps; decoding goes on in this one")
            rest = list(work) or rest
    for chunk_left in rest:
        yield decode_rows(modality, chunk_left, shards), len(chunk_left), ""


def decode_rows(modality: Modality, jobs: Sequence[Job], shards: Shards) -> Chunk:
    """Decode some rows into the files of ``shards``, and look at them."""
    files, spec = shards.opened("r+"), modality.spec
    seen, digest = Chunk(jobs[0][0]), hashlib.sha256()
    # Small ones are packed and written together: for a row of numbers that takes longer than reading it.
    together = max(1, _TOGETHER // (4 * max(1, int(np.prod(spec.shape)))))
    for start in range(0, len(jobs), together):
        block = jobs[start : start + together]
        features = preprocess.many_features(spec, [cells for _, cells in block])
        if features is None:
            features = np.zeros((len(block), *spec.shape), spec.dtype)
            for place, (index, cells) in enumerate(block):
                try:
                    features[place] = _features(modality, cells)
                except MmedgeError as error:
                    seen.faults.append((index, error.what))
                else:
                    seen = _looked(seen, spec, index, features[place])
        small = packed(spec, shards.form, features)
        if small is None:
            raise _Misfit
        number, row = np.divmod(np.array([index for index, _ in block]), shards.per_file)
        for file in np.unique(number):
            files[file][row[number == file]] = small[number == file]
        digest.update(np.ascontiguousarray(small).data)
    return replace(seen, sha256=digest.hexdigest())


def _features(modality: Modality, cells: tuple[Any, ...]) -> np.ndarray:
    """``raw_features`` of a row's cells. Raises MmedgeError where there are none, or such as no network takes."""
    name, spec = modality.name, modality.spec
    features = preprocess.raw_features(spec, value_of(spec, cells, modality.folder), name)
    # A number that is missing in a table is NaN until it is normalised; elsewhere NaN is a fault of the file.
    if not isinstance(spec, TabularSpec) and not np.isfinite(features).all():
        raise MmedgeError(f"the {name} holds NaN or infinite values, or such that float32 cannot hold")
    return features


def _looked(seen: Chunk, spec: ModalitySpec, row: int, features: np.ndarray) -> Chunk:
    if isinstance(spec, TextSpec):
        seen.tokens.append(int((features != spec.pad).sum()))
    elif not isinstance(spec, TabularSpec) and np.ptp(features) == 0:
        seen.blank.append(row)
    elif isinstance(spec, SensorSpec):
        lowest, highest = features.min(axis=1), features.max(axis=1)
        if seen.lowest:
            lowest, highest = np.minimum(lowest, seen.lowest), np.maximum(highest, seen.highest)
        return replace(seen, lowest=lowest.tolist(), highest=highest.tolist())
    return seen


def _header(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline().rstrip("\n")


def _noting(form: str) -> str:
    """The first line of the notes on what has been written in a form."""
    return json.dumps({"form": form})


def _sound(shards: Shards, rows: list[int], sha256: str) -> bool:
    """Whether ``rows`` of the files hold what was written to them."""
    held = shards.read(np.array(rows, np.int64))
    return hashlib.sha256(np.ascontiguousarray(held).data).hexdigest() == sha256


def _noted(path: Path, shards: Shards, chunks: list[list[Job]]) -> dict[int, Chunk]:
    """{first row: what an interrupted call has written, and is still there}."""
    if not shards.whole():
        return {}
    done = {}
    rows = {chunk[0][0]: [row for row, _ in chunk] for chunk in chunks}
    if _header(path) != _noting(shards.form):
        return {}
    left = replace(shards)  # what is mapped of it: the files may be made anew
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
        try:
            found = Chunk(**json.loads(line))
        except (ValueError, TypeError):  # the line that a kill interrupted
            continue
        if _sound(left, rows.get(found.first, []), found.sha256):
            done[found.first] = replace(found, faults=[(row, what) for row, what in found.faults])
    return done


def _created(shards: Shards) -> None:
    """Files of zeros, private to the user, whose place on the disk is taken. Raises MmedgeError where there is none."""
    for file, rows in shards.files:
        file.unlink(missing_ok=True)
        if shards.count:
            np.lib.format.open_memmap(file, "w+", np.dtype(shards.form), (rows, *shards.shape)).flush()
        else:
            np.save(file, np.zeros((0, *shards.shape), shards.form))
        file.chmod(0o600)
        _allot(file, shards)


def _allot(target: Path, shards: Shards) -> None:
    """Take the file's place on the disk now: a mapped write to a full disk would kill the process."""
    try:
        if hasattr(os, "posix_fallocate"):
            with target.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, target.stat().st_size)
    except OSError as error:
        for file, _ in shards.files:
            file.unlink(missing_ok=True)
        raise MmedgeError(
            f"cannot write the decoded samples: {error.strerror or error}",
            where=str(target),
            todo="free some space or choose another --out",
        ) from error
