"""Raw files and cells to arrays on disk, in this process or, where it pays, in several."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any

import numpy as np

from mmedge import preprocess
from mmedge.errors import MmedgeError
from mmedge.machine import cores
from mmedge.preprocess.cells import value_of
from mmedge.progress import Progress
from mmedge.spec import ModalitySpec, TabularSpec

# Rows that are timed in this process before it is decided whether other processes pay for their start (about a second).
_TRIED = 32
_WORTH_SECONDS = 5.0
_CHUNK = 64

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


def decode(
    modality: Modality,
    jobs: list[Job],
    rows: int,
    target: Path,
    *,
    workers: int | None,
    progress: Progress,
) -> list[Fault]:
    """Write ``raw_features`` of every job to ``target``, a .npy of [rows, *spec.shape]; other rows are 0.

    Nothing is held in memory but one sample a process. Returns the rows that could not be decoded. ``workers`` None:
    all cores, where the first rows' time says that it is worth their start.
    """
    # A worker of ours imports the caller's script first. One without a main guard would decode again in there, over the
    # parent's file; it ends here instead, and the parent goes on alone. multiprocessing marks that phase so.
    if getattr(current_process(), "_inheriting", False):
        raise MmedgeError("a worker process ran the whole script again", todo="guard it: if __name__ == '__main__':")
    spec = modality.spec
    if not rows:
        np.save(target, np.zeros((0, *spec.shape), spec.dtype))
        return []
    created(target, np.dtype(spec.dtype), (rows, *spec.shape))
    began = time.monotonic()
    faults, done = decode_rows(modality, jobs[:_TRIED], target), min(_TRIED, len(jobs))
    rest = jobs[_TRIED:]
    task = f"preprocessing {modality.name}"
    progress.step(task, done, len(jobs))
    expected = (time.monotonic() - began) / max(1, done) * len(rest)
    count = workers or (cores() if expected > _WORTH_SECONDS else 1)
    chunks = [rest[start : start + _CHUNK] for start in range(0, len(rest), _CHUNK)]
    if count > 1 and len(chunks) > 1:
        try:
            # Forked from a server that holds no threads: torch, which the caller has imported, does not survive a fork.
            with ProcessPoolExecutor(min(count, len(chunks)), get_context("forkserver")) as pool:
                for found, size in zip(
                    pool.map(decode_rows, *zip(*((modality, chunk, target) for chunk in chunks))),
                    map(len, chunks),
                ):
                    faults += found
                    done += size
                    progress.step(task, done, len(jobs), f"{count} processes")
            return faults
        except BrokenProcessPool:
            progress.say("worker processes could not start or died; decoding goes on in this one")
            done = min(_TRIED, len(jobs))
            faults = [fault for fault in faults if fault[0] in {index for index, _ in jobs[:_TRIED]}]
    for chunk in chunks:
        faults += decode_rows(modality, chunk, target)
        done += len(chunk)
        progress.step(task, done, len(jobs))
    return faults


def decode_rows(modality: Modality, jobs: Sequence[Job], target: Path) -> list[Fault]:
    """Decode some rows into the array that stands in ``target``; returns those that could not be."""
    out = np.lib.format.open_memmap(target, "r+")
    name, spec = modality.name, modality.spec
    faults: list[Fault] = []
    for index, cells in jobs:
        try:
            features = preprocess.raw_features(spec, value_of(spec, cells, modality.folder), name)
            # A number that is missing in a table is NaN until it is normalised; elsewhere NaN is a fault of the file.
            if not isinstance(spec, TabularSpec) and not np.isfinite(features).all():
                raise MmedgeError(f"the {name} holds NaN or infinite values, or such that float32 cannot hold")
            out[index] = features
        except MmedgeError as error:
            faults.append((index, error.what))
    out.flush()
    return faults


def created(target: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """A mapped array of zeros, private to the user, whose place on the disk is taken. Raises MmedgeError where there is none."""
    np.lib.format.open_memmap(target, "w+", dtype, shape).flush()
    target.chmod(0o600)
    _allot(target)
    return np.lib.format.open_memmap(target, "r+")


def _allot(target: Path) -> None:
    """Take the file's place on the disk now: a mapped write to a full disk would kill the process."""
    try:
        if hasattr(os, "posix_fallocate"):
            with target.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, target.stat().st_size)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise MmedgeError(
            f"cannot write the decoded samples: {error.strerror or error}",
            where=str(target),
            todo="free some space or choose another --out",
        ) from error
