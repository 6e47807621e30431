"""From a graph's outputs to answers: labels with probabilities, or a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError
from mmedge.spec import Contract


@dataclass(frozen=True)
class Prediction:
    """One sample's answer. Classification: ``label`` and ``probabilities`` {label: p}; regression: ``value``.

    Several labels: ``labels``, those with a probability above 0.5, the likeliest first, and the ``probabilities`` of
    all.
    """

    label: str | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    value: float | None = None
    labels: tuple[str, ...] | None = None

    def record(self) -> dict[str, Any]:
        if self.value is not None:
            return {"value": self.value}
        named = {"label": self.label} if self.labels is None else {"labels": list(self.labels)}
        return {**named, "probabilities": self.probabilities}


def predictions(contract: Contract, outputs: Mapping[str, np.ndarray]) -> list[Prediction]:
    """{output: float32 [batch, outputs]} of the graph, one Prediction a row.

    Raises MmedgeError for NaN and infinity, and for what the contract does not say.
    """
    output = outputs.get(contract.output)
    if output is None or output.ndim != 2 or output.shape[1] != contract.outputs:
        raise MmedgeError(
            f"the engine answers {', '.join(f'{name} {list(x.shape)}' for name, x in outputs.items())}, its contract says {contract.output} [batch, {contract.outputs}]",
            todo="the bundle's graph and manifest do not belong together: export it again",
        )
    if not np.isfinite(output).all():
        raise MmedgeError(
            "the engine answered NaN or infinity",
            todo="the bundle is damaged, or its precision too low for this input",
        )
    if contract.task == "regression":
        return [Prediction(value=float(row[0])) for row in output]
    if contract.task == "multilabel":
        return [_several(contract.labels, row) for row in output]
    shifted = np.exp(output - output.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    labels = contract.labels
    return [Prediction(labels[int(row.argmax())], dict(zip(labels, row.tolist()))) for row in probabilities]


def _several(labels: Sequence[str], row: np.ndarray) -> Prediction:
    """``row``: one logit a label."""
    probabilities = {label: float(p) for label, p in zip(labels, 0.5 * (1 + np.tanh(row / 2)))}  # no overflow
    found = sorted((label for label in labels if probabilities[label] > 0.5), key=lambda label: -probabilities[label])
    return Prediction(probabilities=probabilities, labels=tuple(found))
