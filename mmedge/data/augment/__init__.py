"""Random changes of one modality's tensors, one file a kind, and the one table of them.

Each is a pure function of (seed, view, row): a row's view depends neither on its batch nor on its epoch's order, so that
teacher and student see the same one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmedge.data.augment import mask, noise, shift
from mmedge.data.augment.chance import Chance
from mmedge.recipe import Augment

# (tensors [batch, *shape], the recipe's section, what is drawn for these rows) -> the same shape; in this order.
CHANGES: tuple[Callable[[np.ndarray, Augment, Chance], np.ndarray], ...] = (shift.change, mask.change, noise.change)


def augmented(x: np.ndarray, augment: Augment, chance: Chance) -> np.ndarray:
    """[batch, *shape]: the rows as one view has them. A change that the section does not name leaves them as they are."""
    for change in CHANGES:
        x = change(x, augment, chance)
    return x
