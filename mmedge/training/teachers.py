"""A frozen teacher's outputs for the samples a student sees, computed once a view and kept in mapped files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmedge.artifact import hash_json, replacing
from mmedge.progress import Progress
from mmedge.recipe import Hint
from mmedge.training.batches import Batch
from mmedge.training.sources import Source

_BATCH = 128


@dataclass(frozen=True)
class Taught:
    """The teacher's answers to a batch, on the student's device: ``logits`` float [batch, classes] over the teacher's

    ``columns``, ``hints`` one float [batch, f] each, and ``rows``: bool [batch], the samples that the logits teach; None
    where all are.
    """

    logits: Tensor
    hints: list[Tensor]
    rows: Tensor | None = None


class Teacher:
    """Answers for (sample, view) pairs of a source.

    The teacher sees every modality a sample has, whatever the student is shown. A view is computed for the whole split
    when it is first asked for; files are keyed by the source (its weights, data, augmentation, view seed), hints and
    view, and rows by sample. ``count``: samples of the training split.
    """

    def __init__(
        self, source: Source, count: int, views: int, *, hints: Sequence[Hint], folder: Path, progress: Progress
    ) -> None:
        self._source, self._count, self._views_total = source, count, views
        self._folder, self._progress = folder, progress
        self._hints = tuple(hints)
        self._key = hash_json([source.key, [(hint.teacher, hint.kind) for hint in hints]])[:16]
        self._views: dict[int, list[np.ndarray]] = {}

    @property
    def columns(self) -> np.ndarray | None:
        """int64: the student's outputs that the logits stand for; None for all."""
        return self._source.columns

    @property
    def notes(self) -> tuple[str, ...]:
        return self._source.notes

    def outputs(self, batch: Batch, device: torch.device) -> Taught:
        """The teacher's answers for the samples of a batch, as the batch's view shows them, on ``device``."""
        logits, taught, *features = (part[batch.index] for part in self._view(batch.view))
        rows = None if taught.all() else torch.from_numpy(taught).to(device)
        return Taught(torch.from_numpy(logits).to(device), [torch.from_numpy(f).to(device) for f in features], rows)

    @property
    def widths(self) -> list[int]:
        """The width of each hint."""
        return [part.shape[1] for part in self._view(0)[2:]] if self._hints else []

    def _view(self, view: int) -> list[np.ndarray]:
        view = 0 if self._source.fixed else view
        if view not in self._views:
            names = ["logits", "taught", *(f"hint{number}" for number in range(len(self._hints)))]
            paths = [self._folder / f"{self._key}-{view}-{name}.npy" for name in names]
            if not all(path.is_file() for path in paths):
                for path, values in zip(paths, self._compute(view), strict=True):
                    with replacing(path) as temporary:
                        np.save(temporary, values)
            self._views[view] = [np.load(path, mmap_mode="r") for path in paths]
        return self._views[view]

    def _compute(self, view: int) -> list[np.ndarray]:
        parts: list[list[np.ndarray]] = []
        for start in range(0, self._count, _BATCH):
            index = np.arange(start, min(start + _BATCH, self._count))
            answer = self._source.answer(index, view)
            parts.append([answer.logits, answer.taught, *answer.hints])
            self._progress.step(
                "teacher's answers", start + len(index), self._count, f"view {view + 1}/{self._views_total}"
            )
        return [np.concatenate(part) for part in zip(*parts, strict=True)]
