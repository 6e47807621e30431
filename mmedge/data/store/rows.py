"""The samples of one modality as they lie on the disk, decoded or not, read as a network takes them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Union

import numpy as np

from mmedge import preprocess
from mmedge.data.store.files import Files
from mmedge.data.store.forms import restored
from mmedge.spec import ModalitySpec

# A file holds this many bytes at most.
_SHARD = 2 << 30
# Bytes of samples, as a network takes them, that are held in memory: reading them is then as fast as it can be.
_HELD = 64 << 20
# Samples of more numbers than this are normalised one by one, since a batch of them does not fit the processor's cache.
_LARGE = 1 << 14


@dataclass(frozen=True)
class Shards:
    """Mapped files ``base.000.npy``, ... of together [count, *shape] numbers of the dtype ``form``."""

    base: Path
    form: str
    count: int
    shape: tuple[int, ...]

    @property
    def per_file(self) -> int:
        """Rows of each file but the last."""
        return max(1, _SHARD // max(1, int(np.prod(self.shape)) * np.dtype(self.form).itemsize))

    @property
    def files(self) -> list[tuple[Path, int]]:
        """(file, its rows)."""
        starts = range(0, max(1, self.count), self.per_file)
        return [
            (self.base.with_name(f"{self.base.name}.{number:03d}.npy"), min(self.per_file, self.count - start))
            for number, start in enumerate(starts)
        ]

    def opened(self, mode: Any = "r") -> list[np.ndarray]:
        """The mapped files. An empty array cannot be mapped, and is made anew."""
        if not self.count:
            return [np.zeros((0, *self.shape), self.form)]
        return [np.lib.format.open_memmap(file, mode) for file, _ in self.files]

    @cached_property
    def mapped(self) -> list[np.ndarray]:
        """The files, mapped once: who has them reads them though they are replaced by others."""
        return self.opened()

    def __getstate__(self) -> dict[str, Any]:
        """To another process go the files' names."""
        return {name: value for name, value in vars(self).items() if name != "mapped"}

    def read(self, rows: np.ndarray) -> np.ndarray:
        """[batch, *shape] of the dtype ``form``: some rows (int64), counted from the end where they are below 0."""
        if len(self.mapped) == 1:
            return np.asarray(self.mapped[0][rows])
        out = np.empty((len(rows), *self.shape), self.form)
        file, row = np.divmod(rows % self.count, self.per_file)
        for number in np.unique(file):
            here = file == number
            out[here] = self.mapped[number][row[here]]
        return out

    def whole(self) -> bool:
        """Whether every file is there with the rows that it has to have."""
        try:
            shapes = [(x.shape, x.dtype) for x in self.opened()]
        except (OSError, ValueError):
            return False
        return shapes == [((rows, *self.shape), np.dtype(self.form)) for _, rows in self.files]


@dataclass(frozen=True)
class Rows:
    """The samples of a modality, [N, *spec.shape] of its dtype, restored and normalised when they are read.

    Read like an array whose first axis is the samples; ``kept`` gives some as they lie on the disk. A sample that lacks
    the modality is 0. ``there``: bool [N], which have it; ``chosen``: int64 [N], which rows of the files these are, all
    where None.
    """

    spec: ModalitySpec
    shards: Shards | Files
    there: np.ndarray
    chosen: np.ndarray | None = None

    def __post_init__(self) -> None:
        if isinstance(self.shards, Shards):
            _ = self.shards.mapped

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, *spec.shape]."""
        return (len(self), *self.shards.shape)

    @property
    def dtype(self) -> np.dtype:
        """That of what is read."""
        return np.dtype(self.spec.dtype)

    @cached_property
    def _held(self) -> np.ndarray | None:
        """All samples, where they are few."""
        if math.prod(self.shape) * self.dtype.itemsize > _HELD or not isinstance(self.shards, Shards):
            return None
        index = np.arange(len(self))
        return self.normalised(self.kept(index), index)

    @property
    def held(self) -> bool:
        """Whether all samples are so few that they are held in memory."""
        return self._held is not None

    def __len__(self) -> int:
        return len(self.there)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        """To another process goes nothing that it can read itself."""
        return {name: value for name, value in vars(self).items() if name != "_held"}

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Samples by number, slice, indices or mask, and of them what the further axes of ``key`` name. A new array."""
        if self._held is not None:
            return np.array(self._held[key])
        rows, inner = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if isinstance(rows, (int, np.integer)):
            return self.normalised(self.kept(np.array([rows])), np.array([rows]))[0][inner]
        index = np.arange(len(self))[rows]
        found = self.normalised(self.kept(index), index)
        return found[(slice(None), *inner)] if inner else found

    @property
    def streamed(self) -> bool:
        """Whether samples are decoded when they are read."""
        return isinstance(self.shards, Files)

    @property
    def unreadable(self) -> dict[int, str]:
        """{row of the files: what is wrong} of those that could not be read; none of samples that were decoded ahead."""
        return {} if isinstance(self.shards, Shards) else self.shards.unreadable

    def taken(self, rows: np.ndarray) -> Rows:
        """The samples of some rows (int64), in that order; none is read."""
        chosen = rows if self.chosen is None else self.chosen[rows]
        return replace(self, there=self.there[rows], chosen=chosen)

    def alone(self, rows: np.ndarray) -> Rows:
        """``taken`` of samples that are decoded when they are read, with what these need alone: small enough to be sent."""
        assert isinstance(self.shards, Files)
        of_files = rows if self.chosen is None else self.chosen[rows]
        return Rows(self.spec, self.shards.alone(of_files), self.there[rows])

    def kept(self, index: np.ndarray) -> np.ndarray:
        """A new array [batch, *shape] in the dtype on the disk: the rows ``index`` (int64 [batch]).

        A sample that lacks the modality is not read: texts without a picture would bring gigabytes of nothing into memory.
        """
        rows, there = index if self.chosen is None else self.chosen[index], self.there[index]
        if there.all() or not isinstance(self.shards, Shards):
            return self.shards.read(rows)
        out = np.zeros((len(rows), *self.shards.shape), self.shards.form)
        out[there] = self.shards.read(rows[there])
        return out

    def raw(self, index: np.ndarray) -> Iterator[np.ndarray]:
        """``preprocess.raw_features`` of each of the rows ``index``; small ones are read together."""
        together = max(1, _LARGE // max(1, math.prod(self.shards.shape)))
        for start in range(0, len(index), together):
            yield from restored(self.spec, self.kept(index[start : start + together]))

    def normalised(self, kept: np.ndarray, index: np.ndarray) -> np.ndarray:
        """[batch, *shape] of the dtype that a network takes, of what ``kept`` gave for the rows ``index``, or of changed such."""
        absent = ~self.there[index]
        if kept[:1].size > _LARGE:
            out = np.zeros(kept.shape, self.dtype)
            for row in np.flatnonzero(~absent):
                out[row] = preprocess.normalise(self.spec, restored(self.spec, kept[row]))
        else:
            out = preprocess.normalise(self.spec, restored(self.spec, kept))
            out[absent] = 0
        return out


@dataclass(frozen=True)
class Reading:
    """How samples are read: ``data.workers``, ``batch_workers``, ``stream`` and ``unreadable`` of the recipe."""

    workers: int | None = None
    batch_workers: int | None = None
    stream: bool = False
    unreadable: float = 0.0


# Samples of a modality: on the disk, or in memory as a network takes them.
Column = Union[np.ndarray, Rows]


def taken(x: Column, rows: np.ndarray) -> Column:
    """The samples of some rows (int64), in that order."""
    return x.taken(rows) if isinstance(x, Rows) else x[rows]


def evenly(count: int, most: int) -> np.ndarray:
    """int64: at most so many of ``count`` places, evenly spread; all of them where they are no more."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)
