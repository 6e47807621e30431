"""Columns of a table that are blanked: numbers become the training mean, words none."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec, TabularSpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """Each with the probability ``column_drop``, with all its places in the tensor; one stays. ``x``: [batch, n]."""
    assert isinstance(spec, TabularSpec)
    owners = _owners(spec)
    draws = chance.drawn("columns", len(spec.columns_read))
    dropped = (draws < augment.column_drop) & (draws < draws.max(axis=1, keepdims=True))
    return np.where(dropped[:, owners], x.dtype.type(0), x)


def _owners(spec: TabularSpec) -> np.ndarray:
    """int64 [n]: the column that each place of the tensor is of."""
    numbers = list(range(len(spec.columns)))
    known = spec.categories or {}
    wide = [1 if spec.encoding == "ordinal" else 1 + len(known.get(name, ())) for name in spec.categorical]
    words = [len(numbers) + place for place, count in enumerate(wide) for _ in range(count)]
    return np.array([*numbers, *(numbers if spec.missing_indicator else []), *words], np.int64)
