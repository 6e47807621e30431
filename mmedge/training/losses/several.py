"""Several teachers of one head: what each gives for a batch, and what the tasks share of taking them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mmedge.errors import UsageError
from mmedge.tasks import Head


@dataclass(frozen=True)
class HeadOutputs:
    """One teacher's outputs for a head.

    ``logits``: float32 [batch, len(columns)]; ``taught``: bool [batch], whether it has an output for the sample;
    ``columns``: int64, ascending, the head's columns that the logits stand for.
    """

    logits: np.ndarray
    taught: np.ndarray
    columns: np.ndarray


def mean_of(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the first axis of [teachers, batch, ...] by weights [teachers, batch]; 0 where nobody has a weight."""
    weights = weights / np.maximum(weights.sum(axis=0), 1e-300)
    return (values * weights.reshape(weights.shape + (1,) * (values.ndim - 2))).sum(axis=0)


def mean_of_odds(
    parts: list[HeadOutputs], weights: np.ndarray, *, confidence: bool, columns: np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """(log odds float32 [batch, len(columns)], taught bool [batch]) of outputs that are each a probability of its own.

    Each column's probability is the mean over the teachers that know it; ``confidence`` is then the column's own. One
    that nobody who has an output knows is left at even odds, and the sample untaught.
    """
    taught = np.stack([part.taught for part in parts])
    p, counted = np.zeros((2, len(parts), taught.shape[1], len(columns)))
    for number, part in enumerate(parts):
        places = np.searchsorted(columns, part.columns)
        own = 0.5 * (1 + np.tanh(part.logits.astype(np.float64) / 2))
        p[number][:, places] = own
        weight = weights[number] * part.taught[:, None].astype(np.float64)
        if confidence:
            safe = np.clip(own, 1e-12, 1 - 1e-12)
            weight = weight * np.exp(safe * np.log(safe) + (1 - safe) * np.log(1 - safe))
        counted[number][:, places] = weight
    total = counted.sum(axis=0)
    mean = np.where(total > 0, (p * counted).sum(axis=0) / np.maximum(total, 1e-300), 0.5)
    mean = np.clip(mean, floor, 1 - floor)
    known = taught.any(axis=0) & (total > 0).all(axis=1)
    return np.where(known[:, None], np.log(mean) - np.log1p(-mean), 0).astype(np.float32), known


def known_to(columns: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor | None]:
    """The targets as they are, and all rows: nothing that a teacher does not know excludes what it knows."""
    return targets, None


def check_together(known: Sequence[np.ndarray], columns: np.ndarray) -> None:
    """Any teachers go together."""


def mean_together(
    parts: list[HeadOutputs], weights: np.ndarray, *, confidence: bool, columns: np.ndarray, head: Head
) -> tuple[np.ndarray, np.ndarray]:
    """(outputs float32 [batch, W], taught bool [batch]): the weighted mean of the teachers' numbers."""
    taught = np.stack([part.taught for part in parts])
    numbers = np.stack([part.logits for part in parts])
    return mean_of(numbers, weights[:, None] * taught).astype(np.float32), np.asarray(taught.any(axis=0))


def apart(what: str, todo: str) -> tuple[Callable[..., tuple[np.ndarray, np.ndarray]], Callable[..., None]]:
    """(``together``, ``check_together``) of a task whose outputs have no mean: each raises UsageError, which says why."""

    def refused() -> UsageError:
        return UsageError(what, where="distill.teachers", todo=todo)

    def together(*_: object, **__: object) -> tuple[np.ndarray, np.ndarray]:
        raise refused()

    def check(*_: object) -> None:
        raise refused()

    return together, check
