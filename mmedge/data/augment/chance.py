"""What is drawn for the rows of one view: a function of seed, view and row alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Chance:
    """The draws of view ``view`` for the rows ``index`` (int64 [batch]) of a split of ``total`` rows."""

    seed: int
    view: int
    index: np.ndarray
    total: int

    def uniform(self, stream: int, columns: int) -> np.ndarray:
        """float64 [batch, columns] in [0, 1). Changes that name one ``stream`` share its columns."""
        # Drawn for the whole split and then indexed: a row's view does not depend on the batch it comes in.
        return _uniform(self.seed, self.view, stream, self.total, columns)[self.index]

    def drawn(self, change: str, columns: int) -> np.ndarray:
        """float64 [batch, columns] in [0, 1), of the change of that name; each row's by themselves, however many rows there are.

        SplitMix64 (Steele, Lea & Flood 2014) as a hash of a counter.
        """
        key = np.random.SeedSequence([self.seed, self.view, *change.encode()]).generate_state(1, np.uint64)
        count = self.index.astype(np.uint64)[:, None] * np.uint64(columns) + np.arange(1, columns + 1, dtype=np.uint64)
        z: np.ndarray = key + count * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def gaussian(self, change: str, columns: int) -> np.ndarray:
        """float64 [batch, columns] of mean 0 and deviation 1, as ``drawn`` (Box & Muller 1958)."""
        draws = self.drawn(change, 2 * columns)
        return np.sqrt(-2 * np.log1p(-draws[:, :columns])) * np.cos(2 * np.pi * draws[:, columns:])

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """float32 [batch, *shape] of mean 0 and deviation 1, each row by a generator of its own."""
        rows = [np.random.default_rng([self.seed, self.view, int(row)]) for row in self.index]
        return np.stack([rng.standard_normal(shape, np.float32) for rng in rows])


@lru_cache(maxsize=2)
def _uniform(seed: int, view: int, stream: int, total: int, columns: int) -> np.ndarray:
    """float64 [total, columns], kept while the epoch lasts: drawing for a million rows takes longer than a step."""
    draws = np.random.default_rng([seed, view, stream]).random((total, columns))
    draws.flags.writeable = False
    return draws


# Version 0.1 drew all of a row's shifts and masks at once: a seed gives the views that it gave then.
PLACES = (7, 6)
