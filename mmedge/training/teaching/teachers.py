"""A frozen teacher's outputs for the samples that a student sees: computed at every step, or once a view and kept in mapped files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmedge.artifact import hash_json
from mmedge.models.fusion import repeated
from mmedge.progress import Progress
from mmedge.recipe import Hint
from mmedge.training.loop import processes
from mmedge.training.loop.batches import Batch
from mmedge.training.loop.frozen_parts import parts_reused
from mmedge.training.teaching.caching import Decision, Demand, Workload, decided
from mmedge.training.teaching.filling import fill, lacking
from mmedge.training.teaching.kept import Form, restored
from mmedge.training.teaching.sources import Source


@dataclass(frozen=True)
class BatchOutputs:
    """The teacher's outputs of one head for a batch, on the student's device.

    ``logits``: float [batch, len(columns)]; ``columns``: int64, those of the student's output that they stand for, None
    for all; ``rows``: bool [batch], the samples that they teach, None for all.
    """

    logits: Tensor
    columns: Tensor | None = None
    rows: Tensor | None = None

    def repeated(self, times: int) -> BatchOutputs:
        """The same for a batch whose samples each have ``times`` outputs in a row."""
        rows = None if self.rows is None else repeated(self.rows, times)
        return replace(self, logits=repeated(self.logits, times), rows=rows)


@dataclass(frozen=True)
class TeacherBatch:
    """What a teacher gives for a batch: ``heads``, by name, and ``hints``, one float [batch, f] each."""

    heads: dict[str, BatchOutputs]
    hints: list[Tensor]


class Teacher:
    """A teacher's outputs for (sample, view) pairs of a source.

    The teacher sees every modality a sample has, whatever the student sees. Where its outputs are kept, a view is
    computed for the whole split when it is first needed; files are keyed by the source (its weights, data,
    augmentation, view seed), hints and view, and rows by sample. ``count``: samples of the training split; ``demand``:
    how often they will be needed, which decides whether keeping is faster (``training.caching``), and in which form.
    """

    def __init__(
        self,
        source: Source,
        count: int,
        views: int,
        *,
        demand: Demand,
        hints: Sequence[Hint],
        folder: Path,
        progress: Progress,
    ) -> None:
        self._source, self._count, self._demand = source, count, demand
        self._views_total = 1 if source.fixed else min(views, demand.passes)
        self._decision: Decision | None = None
        self._folder, self._progress = folder, progress
        self._hints = tuple(hints)
        self._form = form = demand.form
        kept = [form.dtype, form.top] if form != Form(exclusive=form.exclusive) else []
        self._key = hash_json([source.key, [(hint.teacher, hint.kind) for hint in hints], *kept])[:16]
        self._views: dict[int, list[np.ndarray]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._source.notes, self.decision.reason)

    @property
    def decision(self) -> Decision:
        """Whether the outputs are kept; taken when it is first needed, and then the same for good."""
        if self._decision is None:
            self._decision = decided(
                self._folder
                / f"{self._key}-{self._demand.passes}-{self._demand.batch_size}-{self._demand.mode}.decision.json",
                self._demand,
                Workload(
                    self._count,
                    self._views_total,
                    sum(not all(p.is_file() for p in self._paths(v)) for v in range(self._views_total)),
                    lambda index: self._packed(self._parts(index, 0)),
                ),
            )
            self._progress.say(self._decision.reason)
        return self._decision

    def outputs(self, batch: Batch, device: torch.device) -> TeacherBatch:
        """The teacher's outputs for the samples of a batch, as the batch's view shows them, on ``device``."""
        parts = self._kept(batch) if self.decision.kept else self._parts(batch.index, batch.view)
        taught, rest = parts[0], [torch.from_numpy(part).to(device) for part in parts[1:]]
        rows = None if taught.all() else torch.from_numpy(taught).to(device)
        heads = {}
        for name, logits in zip(self._source.heads, rest):
            columns = self._source.columns.get(name)
            heads[name] = BatchOutputs(logits, None if columns is None else torch.from_numpy(columns).to(device), rows)
        return TeacherBatch(heads, rest[len(heads) :])

    @property
    def widths(self) -> list[int]:
        """The width of each hint."""
        if not self._hints:
            return []
        return [part.shape[1] for part in self._parts(np.zeros(1, np.int64), 0)[1 + len(self._source.heads) :]]

    def _parts(self, index: np.ndarray, view: int) -> list[np.ndarray]:
        """What the source gives, as the arrays that files keep: taught, the logits of each head, and one a hint."""
        outputs = self._source.outputs(index, view)
        return [outputs.taught, *(outputs.logits[name] for name in self._source.heads), *outputs.hints]

    def _kept(self, batch: Batch) -> list[np.ndarray]:
        return [restored(part[batch.index]) for part in self._view(batch.view)]

    def _packed(self, parts: list[np.ndarray]) -> list[np.ndarray]:
        """What ``_parts`` gave, as files keep it."""
        names = [None, *self._source.heads, *(None for _ in self._hints)]
        return [self._form.packed(part, name) for part, name in zip(parts, names, strict=True)]

    def _paths(self, view: int) -> list[Path]:
        heads = [f"logits-{name}" for name in self._source.heads]
        names = ["taught", *heads, *(f"hint{number}" for number in range(len(self._hints)))]
        return [self._folder / f"{self._key}-{view}-{name}.npy" for name in names]

    def _view(self, view: int) -> list[np.ndarray]:
        view = 0 if self._source.fixed else view
        if view not in self._views:
            paths = self._paths(view)
            if lacking(paths):
                text = f"view {view + 1}/{self._views_total}"
                told = partial(self._progress.step, "teacher's outputs", total=self._count, text=text)
                with self._reusing(view):
                    fill(paths, self._count, lambda index: self._packed(self._parts(index, view)), told)
            self._views[view] = [np.load(path, mmap_mode="r") for path in paths]
        return self._views[view]

    @contextmanager
    def _reusing(self, view: int) -> Iterator[None]:
        """Within the block parts of the teacher that see the same in every view are run for one of them."""
        with ExitStack() as reusing:
            for number, module in enumerate(self._source.modules if self._views_total > 1 else ()):
                folder = self._folder / f"{self._key}-parts{number}-{processes.rank()}"
                reusing.enter_context(parts_reused(module, folder, self._count * self._views_total))
                if view == self._views_total - 1:  # needed no more
                    reusing.callback(shutil.rmtree, folder, ignore_errors=True)
            yield
