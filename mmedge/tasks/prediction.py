"""What a model predicts of one sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """One sample's prediction by a head, or by all heads of a model.

    ``label`` and ``probabilities`` {label: p}: one of several classes or grades. ``rank``: of a grade, from 0.
    ``labels``: those with a probability above 0.5, the likeliest first, where a sample has any number. ``value``: a
    number, in the targets' own unit; ``values``: several, {name: number}. ``array``: float32 [frames, ...], as long as it is
    said to be. ``embeddings``: {tower: its vector, of unit length}, of the towers that saw something. ``text``: a text that
    was written, with its log probability (``score``, in nats) and whether it came to an end before the limit (``ended``).
    ``heads``: a prediction a head, where the model has several; the other fields are then empty.
    """

    label: str | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    value: float | None = None
    values: dict[str, float] | None = None
    array: np.ndarray | None = None
    labels: tuple[str, ...] | None = None
    rank: int | None = None
    embeddings: dict[str, tuple[float, ...]] | None = None
    text: str | None = None
    score: float | None = None
    ended: bool | None = None
    heads: dict[str, Prediction] = field(default_factory=dict)

    def words(self) -> str:
        """What is predicted by one head, in a few words."""
        if self.label is not None:
            return self.label
        if self.text is not None:
            return self.text
        if self.labels is not None:
            return ", ".join(self.labels) or "none"
        if self.values is not None:
            return ", ".join(f"{name} {number:.4g}" for name, number in self.values.items() if number == number)
        if self.array is not None:
            return f"an array {list(self.array.shape)}, mean {self.array.mean():.4g}"
        return f"a vector of {' and '.join(self.embeddings)}" if self.embeddings is not None else f"{self.value:.4g}"

    def record(self) -> dict[str, Any]:
        """JSON values of the fields that are set."""
        if self.heads:
            return {name: prediction.record() for name, prediction in self.heads.items()}
        if self.value is not None:
            return {"value": self.value}
        if self.values is not None:
            return {"values": self.values}
        if self.array is not None:
            return {"array": self.array.tolist(), "length": len(self.array)}
        if self.text is not None:
            return {"text": self.text, "score": self.score, "ended": self.ended}
        if self.embeddings is not None:
            return {"embeddings": {tower: list(vector) for tower, vector in self.embeddings.items()}}
        named = {"label": self.label} if self.labels is None else {"labels": list(self.labels)}
        ranked = {} if self.rank is None else {"rank": self.rank}
        return {**named, **ranked, "probabilities": self.probabilities}
