"""Labels whose vectors lie in the bundle, told apart without a tower of texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from mmedge import bundle as bundles
from mmedge.artifact import Artifact
from mmedge.errors import MmedgeError
from mmedge.tasks.retrieval import ZeroShot


@dataclass(frozen=True)
class LabelVectors:
    """``vectors``: float32 [labels, dimensions], of the text that ``template`` makes of each, as long as ``tower`` gives them."""

    labels: tuple[str, ...]
    template: str
    vectors: np.ndarray
    tower: str = ""

    def of(self, labels: tuple[str, ...], template: str, asks: str) -> np.ndarray | None:
        """The vectors of some of the labels, for a sample of the tower ``asks``.

        None where one is not among them, the template is another, or they are of that tower itself.
        """
        if template != self.template or asks == self.tower or not set(labels) <= set(self.labels):
            return None
        return self.vectors[[self.labels.index(label) for label in labels]]


def label_vectors(found: Artifact) -> LabelVectors | None:
    """Those that a bundle has; None where it has none. Raises MmedgeError where they are not understood."""
    if "zero_shot" not in found.meta:
        return None
    try:
        told = ZeroShot.model_validate(found.meta["zero_shot"])
        vectors = np.load(bundles.verified_file(found, told.file), allow_pickle=False)
        if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != len(told.labels):
            raise ValueError(f"{vectors.dtype} {list(vectors.shape)} for {len(told.labels)} labels")
    except (ValidationError, ValueError, EOFError) as error:
        raise MmedgeError(
            f"the vectors of the bundle's labels are not understood: {error}",
            where=str(found.path),
            todo="export it again",
        ) from None
    return LabelVectors(tuple(told.labels), told.template, vectors, told.tower)
