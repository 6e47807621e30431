"""What a head learns: one file a task, beside the hints that are of any task. Scalars, means over a batch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from torch import Tensor

from mmedge.recipe import Loss, Train
from mmedge.tasks import TASKS, Head
from mmedge.training.losses.several import HeadOutputs


class Losses(Protocol):
    """What a task's losses are, of outputs float [batch, W]; see the tasks for the targets."""

    def label_loss(self, output: Tensor, targets: Tensor, head: Head, train: Train, weights: Tensor | None) -> Tensor:
        """The loss against labels. Rows without one count as 0, and in the number that the sum is divided by."""

    def teacher_loss(self, output: Tensor, teacher: Tensor, targets: Tensor, head: Head, loss: Loss) -> Tensor:
        """The loss against a teacher's output of the same shape."""

    def known_to(self, columns: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor | None]:
        """(the targets, the rows that may be taught, bool [batch] or None for all) of a teacher that knows some columns."""

    def together(
        self, parts: list[HeadOutputs], weights: np.ndarray, *, confidence: bool, columns: np.ndarray, head: Head
    ) -> tuple[np.ndarray, np.ndarray]:
        """(outputs float32 [batch, len(columns)], taught bool [batch]): what several teachers give together."""

    def check_together(self, known: Sequence[np.ndarray], columns: np.ndarray) -> None:
        """Raise UsageError where teachers that know these columns cannot be taken together."""


# The tasks' table names the files here, so that a task has one row.
LOSSES: dict[str, Losses] = {name: cast(Losses, import_module(f"{__name__}.{name}")) for name in TASKS}


def of(head: Head) -> Losses:
    """The losses of a head's task."""
    return LOSSES[head.task]
