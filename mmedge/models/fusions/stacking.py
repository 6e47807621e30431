"""Fusion by stacking: each modality comes to its own decision, and rows that none of them learned from say what each weighs."""

from __future__ import annotations

from torch import Tensor

from mmedge.models.fusions.decision import Decision


class Stacked(Decision):
    """The sum of each modality's own ``hidden`` features by weights of at least 0, fitted on validation rows after training.

    Wolpert 1992, "Stacked generalization"; Breiman 1996, "Stacked regressions", for weights that are not negative. They are
    equal while all else is trained, in which they take no part. ``forward``: as in ``FUSIONS``.
    """

    by_weights = False
    weights: Tensor

    def __init__(self, count: int, embedding: int, hidden: int) -> None:
        super().__init__(count, embedding, hidden, given=[1.0] * count)
