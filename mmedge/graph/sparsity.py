"""The 2:4 pattern: of four weights that follow each other along a layer's inputs at least two are zero."""

from __future__ import annotations

import numpy as np


def has_pattern(weight: np.ndarray, inputs: int) -> bool:
    """Whether a layer's weights, or their codes, hold the pattern along the axis ``inputs``."""
    if weight.ndim < 2 or weight.shape[inputs] % 4:
        return False
    rows = np.moveaxis(weight, inputs, -1)
    return bool((np.count_nonzero(rows.reshape(*rows.shape[:-1], -1, 4), axis=-1) <= 2).all())
