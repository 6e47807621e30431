"""Two samples as one: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).

Whom a row is mixed with is a function of seed, view and row as all of a view is, not of its batch: a teacher that is
asked for that row and view sees the very same mix, and its outputs for it can be kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.recipe.augment import Mix


@dataclass(frozen=True)
class Mixing:
    """What rows are mixed with. ``partner``: int64 [batch]; ``own``: float64 [batch], the part that is of the row itself.

    ``draws``: float64 [batch, 2], where a box lies.
    """

    partner: np.ndarray
    own: np.ndarray
    draws: np.ndarray
    kind: str

    def some(self, rows: np.ndarray) -> Mixing:
        """The same of some of the rows. ``rows``: bool [batch]."""
        return Mixing(self.partner[rows], self.own[rows], self.draws[rows], self.kind)


def mixing(mix: Mix, chance: Chance, present: np.ndarray) -> Mixing:
    """What ``chance`` says of its rows. ``present``: bool [N, M]; a row is left alone where its partner lacks what it has."""
    from scipy.special import betaincinv

    draws = chance.drawn("mix", 5)
    partner = (draws[:, 0] * chance.total).astype(np.int64)
    able = (present[partner] | ~present[chance.index]).all(axis=1) & (draws[:, 1] < mix.share)
    own = np.where(able, betaincinv(mix.alpha, mix.alpha, draws[:, 2]), 1.0)
    return Mixing(partner, own, draws[:, 3:], mix.kind)


def mixed(x: np.ndarray, other: np.ndarray, how: Mixing) -> np.ndarray:
    """float32 [batch, *shape]: ``x`` with a part of ``other``, those of the rows and of their partners.

    CutMix takes it as a box of the last two axes of images and spectrograms, and as a run of the last one of series;
    rows of numbers have neither, and are mixed as by mixup.
    """
    if how.kind == "mixup" or x.ndim < 3:
        own = how.own.astype(np.float32).reshape(-1, *(1,) * (x.ndim - 1))
        return own * x + (1 - own) * other
    axes = min(2, x.ndim - 2)
    sizes = np.array(x.shape[x.ndim - axes :])
    sides = np.rint((1 - how.own[:, None]) ** (1 / axes) * sizes).astype(int)
    starts = np.floor(how.draws[:, :axes] * (sizes - sides + 1)).astype(int)
    for row, (start, side) in enumerate(zip(starts, sides)):
        box = (..., *(slice(begin, begin + length) for begin, length in zip(start, side)))
        x[row][box] = other[row][box]
    return x
