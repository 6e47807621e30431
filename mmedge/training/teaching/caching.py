"""Whether a teacher's outputs are kept in files or computed again at every step: whichever is faster, by measurement."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mmedge.frozen import Record
from mmedge.leftovers import BESIDE
from mmedge.recipe import Train
from mmedge.training.loop import processes
from mmedge.training.teaching.kept import WHOLE, Form

Mode = Literal["measured", "always", "never"]
_REPEATS = 3
# The share of the free disk space that the files may take.
_DISK = 0.5


@dataclass(frozen=True)
class Demand:
    """How often a teacher will be run: ``passes`` over the training split in all, ``batch_size`` samples at a time.

    ``form``: that of its outputs where they are kept.
    """

    passes: int
    batch_size: int
    mode: Mode = "measured"
    form: Form = WHOLE

    @classmethod
    def by(cls, train: Train, fits: int, mode: Mode, form: Form = WHOLE) -> Demand:
        """Of ``fits`` trainings on one schedule (one a seed)."""
        return cls(train.epochs * fits, train.batch_size, mode, form)


class Decision(Record):
    """``kept``: the outputs are kept in files. ``reason``: why, with the figures, for the log and the report."""

    kept: bool
    reason: str


@dataclass(frozen=True)
class Workload:
    """What there is to keep: ``count`` samples of a split in ``views`` views, of which ``missing`` are not in files yet.

    ``outputs(index)``: what the teacher gives for these rows, one array a part.
    """

    count: int
    views: int
    missing: int
    outputs: Callable[[np.ndarray], list[np.ndarray]]


def decided(path: Path, demand: Demand, workload: Workload) -> Decision:
    """The decision in ``path``, where there is one; else it is taken and written there. All processes call this: each may hold a part of the teacher.

    Kept since the outputs for a sample differ in the last bit with the batch that it is in: an interrupted
    training goes on with the decision that it began with, and so ends with the same weights.
    """

    def decide() -> Decision:
        if demand.mode == "measured":
            return _measured(path.parent, demand, workload)
        if demand.mode == "always":
            return Decision(kept=True, reason="teacher's outputs kept in files, as distill.cache asks")
        return Decision(kept=False, reason="the teacher runs at every step, as distill.cache asks")

    return Decision.model_validate(processes.remembered(path, lambda: decide().record()))


def _measured(folder: Path, demand: Demand, workload: Workload) -> Decision:
    index = np.random.default_rng(0).permutation(workload.count)[: demand.batch_size]
    parts = workload.outputs(index)  # also warms the teacher up
    teacher = _fastest(lambda: workload.outputs(index))
    folder.mkdir(parents=True, exist_ok=True)
    read = _reading(folder, parts)
    figures = (
        f"a batch of {len(index)} takes the teacher {teacher * 1e3:.2f} ms and the files {read * 1e3:.2f} ms; "
        f"{demand.passes} passes over the training split show {workload.views} views"
    )
    needed = sum(part[0].nbytes for part in parts) * workload.count * workload.missing
    free = shutil.disk_usage(folder).free
    if needed > _DISK * free:
        room = f"its outputs would take {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free"
        return Decision(kept=False, reason=f"the teacher runs at every step: {room}")
    # In units of one pass over the split.
    live, kept = demand.passes * teacher, workload.missing * teacher + demand.passes * read
    if kept < live:
        return Decision(
            kept=True, reason=f"teacher's outputs kept in files, {live / kept:.1f} times as fast: {figures}"
        )
    return Decision(kept=False, reason=f"the teacher runs at every step, files would not be faster: {figures}")


def _reading(folder: Path, parts: list[np.ndarray]) -> float:
    """Seconds to read a batch of such parts from mapped files, rows in any order."""
    rows = np.random.default_rng(1).permutation(len(parts[0]))
    paths = [folder / f".probe-{number}-{processes.rank()}{BESIDE}{os.getpid()}.npy" for number in range(len(parts))]
    try:
        for path, part in zip(paths, parts):
            np.save(path, part)
        mapped = [np.load(path, mmap_mode="r") for path in paths]
        return _fastest(lambda: [np.asarray(part[rows]) for part in mapped])
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls: what else the machine does only adds to it."""
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
