"""What tasks share whose outputs are no labels: a file of a teacher's outputs holds them as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def from_file(numbers: np.ndarray, kind: str) -> np.ndarray:
    return numbers


def improbable(numbers: np.ndarray) -> np.ndarray:
    """bool [N]: none of them is said to be a probability."""
    return np.zeros(len(numbers), bool)


def file_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """None: columns are numbers."""
    return ()


def named(cells: Sequence[str | None], target: object) -> list[frozenset[str] | None]:
    """None of them: cells name no labels."""
    return [None] * len(cells)


def probabilities(output: np.ndarray) -> np.ndarray:
    """Of no columns: numbers do not tell how sure they are."""
    return np.zeros((len(output), 0))


def chosen(output: np.ndarray) -> np.ndarray:
    return np.zeros(len(output), np.int64)


def spread(targets: np.ndarray) -> np.ndarray | None:
    return None


def weights(targets: np.ndarray) -> np.ndarray:
    return np.ones(len(targets), np.float32)
