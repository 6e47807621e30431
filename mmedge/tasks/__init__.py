"""What an output of a model means: one file a task, and the one table of them.

A task is a module that has what ``Task`` lists, torch-free; its losses stand in ``training/losses`` under the same
name. No other file compares a task's name: whoever has a head asks ``of(head)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from mmedge.tasks import classification, frames, generation, multilabel, ordinal, regression, retrieval
from mmedge.tasks.cells import CellFault, Cells, TargetCard
from mmedge.tasks.head import Head, Target
from mmedge.tasks.prediction import Prediction
from mmedge.tasks.scale import Scale


class Task(Protocol):
    """What a task's module has. N rows, W outputs a row; a cell is what the table says of a row, None where nothing."""

    OUTPUT: str  # the graph's output where a model has one head
    METRIC: str  # the figure that it is judged by: more is better
    FIGURES: dict[str, Scale]  # the scale of the metric and of each of ``others``
    FILE_KINDS: tuple[str, ...]  # the arrays that a file of a teacher's outputs may hold

    # What cells say.
    LABELS: bool  # they name labels
    SEVERAL: bool  # one may name any number of them
    ORDERED: bool  # labels are grades, which stand in an ``order``
    FILES: bool  # one may be the path of a file
    BALANCED: bool  # rare labels may be weighed or drawn more often, and ``focal_gamma`` be set

    # What outputs mean.
    EXCLUSIVE: bool  # a row has just one label: the logits of a softmax
    CONFIDENCE: bool  # they tell how sure they are
    UNIT: bool  # they are in the targets' own unit
    CODES: bool  # they are equal or not, and have no distance
    AMONG: bool  # a row is judged among the others, since its output alone says nothing
    PLACED: bool  # ``score`` and ``others`` take what ``placed`` makes of them, and the targets' first column alone

    def width(self, head: Head) -> int:
        """W, the columns of an output."""

    def named(self, cells: Cells, target: Target) -> list[frozenset[str] | None]:
        """The labels that each cell names; None where it says nothing, or the task has no labels."""

    def head(self, defining: Cells, target: Target) -> Head:
        """The head that the telling cells describe, as far as they do: what is wrong with them, ``faults`` tells."""

    def stand_in(self) -> Head:
        """A head of the least width, for looking at models where the data could not be read."""

    def faults(self, cells: Mapping[str, Cells], target: Target) -> Iterator[CellFault]:
        """All that is wrong with the targets of the splits: {split: its cells}. What is found may be an error or a warning."""

    def targets(self, cells: Cells, head: Head, target: Target) -> np.ndarray:
        """[N] or [N, W], as ``known`` and ``score`` take them. ``faults`` has no error of the cells."""

    def known(self, targets: np.ndarray) -> np.ndarray:
        """bool [N]: whose target is known."""

    def hidden(self, targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The targets with those of some rows (indices, or bool [N]) unknown."""

    def grouped(self, targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """The targets with what the groups, int64 [N], say of them; as they are where that is nothing."""

    def placed(self, output: np.ndarray, gallery: np.ndarray, targets: np.ndarray, head: Head) -> np.ndarray:
        """What ``score`` and ``others`` take: outputs as they are, unless it is ``PLACED``: then as each row, [N, W], stands in the gallery, [N, W], or at its target."""

    def strata(self, cells: Cells, target: Target) -> list[str]:
        """What splits are stratified by, one a row; "" where the row has no label."""

    def spread(self, targets: np.ndarray) -> np.ndarray | None:
        """int64 [N]: what labels are spread evenly over; None where there is nothing of the kind."""

    def weights(self, targets: np.ndarray) -> np.ndarray:
        """float32 [N]: what each row counts where classes are balanced; 1 for the unlabelled."""

    def score(self, output: np.ndarray, targets: np.ndarray, head: Head) -> float:
        """The metric over known rows, NaN where it is not defined. ``output``: float [N, W]."""

    def others(self, output: np.ndarray, targets: np.ndarray, head: Head) -> dict[str, float]:
        """Further figures over known rows, beside the metric."""

    def further(self, name: str, output: np.ndarray, targets: np.ndarray, head: Head) -> float:
        """A figure of ``FIGURES`` that ``others`` does not tell, or of one part as ``FIGURE.PART``; NaN where there is none."""

    def parts(self, head: Head) -> tuple[str, ...]:
        """What a figure may be of alone, by names: labels, values, directions."""

    def majority(self, targets: np.ndarray, head: Head, rows: int) -> np.ndarray:
        """float32 [rows, W]: the outputs of who has seen nothing but the known targets of training: the most frequent label, the mean."""

    def errors(self, output: np.ndarray, targets: np.ndarray, head: Head) -> np.ndarray:
        """float [N]: of numbers how far outputs, [N, W], are from targets (or other outputs), in the targets' deviations."""

    def same(self, expected: np.ndarray, actual: np.ndarray) -> float:
        """The share of rows whose two outputs, float [N, W], mean the same."""

    def probabilities(self, output: np.ndarray) -> np.ndarray:
        """float64 [N, labels] of outputs, float [N, W]: how likely each label is; of no columns where there is no ``CONFIDENCE``."""

    def chosen(self, output: np.ndarray) -> np.ndarray:
        """int64 [N]: the label that each row is taken to have, where a row has just one; else 0."""

    def predictions(self, output: np.ndarray, head: Head) -> list[Prediction]:
        """One a row of finite outputs, float [N, W]."""

    def card(self, cells: Cells, target: Target) -> TargetCard:
        """What ``mmedge check`` tells of a split's targets."""

    def from_file(self, numbers: np.ndarray, kind: str) -> np.ndarray:
        """Outputs float [N, W] of what a file of a teacher's outputs holds, one of ``FILE_KINDS``."""

    def improbable(self, numbers: np.ndarray) -> np.ndarray:
        """bool [N]: the rows of such a file that cannot be probabilities."""

    def file_labels(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The labels that such a file has a column each of: those that it names, none where columns are no labels."""


# THE table: a new task is its file here, its file in training/losses, and a row.
TASKS: dict[str, Task] = {
    "classification": classification,
    "multilabel": multilabel,
    "regression": regression,
    "ordinal": ordinal,
    "retrieval": retrieval,
    "frames": frames,
    "generation": generation,
}


def row_by_row(described: Head | Target) -> bool:
    """Whether an output is numbers that say something of their row by themselves: what a linear model can learn, and what
    each input can be held to account for."""
    return not (of(described).AMONG or of(described).CODES)


def of(described: Head | Target) -> Task:
    """The task of a head, or of a recipe's target."""
    return TASKS[described.task]
