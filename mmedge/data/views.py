"""Views of samples: begun in any process, as small as they lie on the disk, and finished in the one that trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mmedge.data.augment import augmented, begun, finished
from mmedge.data.augment.chance import Chance
from mmedge.data.augment.mix import Mixing, mixed
from mmedge.data.store.rows import Column, Rows
from mmedge.recipe import Augment

# A modality that nothing changes.
_UNCHANGED = Augment()


@dataclass(frozen=True)
class Asked:
    """The view ``view`` of the rows ``index`` (int64 [batch]), mixed as ``how`` says. It can be sent to another process.

    ``files``: {modality: the files of these rows, then of their partners}, of samples that are decoded when they are read.
    """

    index: np.ndarray
    view: int
    how: Mixing | None
    files: Mapping[str, Rows]


@dataclass(frozen=True)
class Begun:
    """``arrays``: {modality: [batch, *shape]}, of which ``Views.finish`` makes inputs; ``unreadable``: {row: what is wrong}."""

    arrays: dict[str, np.ndarray]
    unreadable: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Views:
    """The samples of a split by modality, and by which chance they are changed.

    ``augment``: presets written out; ``total``: rows of the split. The same (seed, view, row) gives the same view.
    """

    inputs: Mapping[str, Column]
    augment: Mapping[str, Augment]
    seed: int
    total: int

    def asked(self, index: np.ndarray, view: int, how: Mixing | None = None) -> Asked:
        """What ``begin`` needs for some rows."""
        every = index if how is None else np.concatenate([index, how.partner])
        streams = {name: x for name, x in self.inputs.items() if isinstance(x, Rows) and x.streamed}
        return Asked(index, view, how, {name: x.alone(every) for name, x in streams.items()})

    def begin(self, asked: Asked) -> Begun:
        """All of the work but what is cheap; of a mix all of it."""
        chance, count = Chance(self.seed, asked.view, asked.index, self.total), len(asked.index)
        arrays = {}
        for name, x in {**self.inputs, **asked.files}.items():
            changes, own = self._changes(name, asked), asked.files.get(name)
            at = asked.index if own is None else np.arange(count)
            if asked.how is None:
                arrays[name] = begun(x, at, changes, chance)
                continue
            others = Chance(self.seed, asked.view, asked.how.partner, self.total)
            of_others = asked.how.partner if own is None else np.arange(count, 2 * count)
            arrays[name] = mixed(augmented(x, at, changes, chance), augmented(x, of_others, changes, others), asked.how)
        return Begun(arrays, _unreadable(asked))

    def finish(self, asked: Asked, made: Begun) -> dict[str, np.ndarray]:
        """{modality: [batch, *shape]}: what a network takes; it may be what ``made`` holds."""
        if asked.how is not None:
            return {name: made.arrays[name] for name in self.inputs}
        chance, found = Chance(self.seed, asked.view, asked.index, self.total), {}
        for name, x in self.inputs.items():
            own = asked.files.get(name)
            at = asked.index if own is None else np.arange(len(asked.index))
            changes = self._changes(name, asked)
            found[name] = finished(x if own is None else own, made.arrays[name], at, changes, chance)
        return found

    def _changes(self, name: str, asked: Asked) -> Augment:
        return self.augment.get(name, _UNCHANGED) if len(asked.index) else _UNCHANGED


def _unreadable(asked: Asked) -> dict[int, str]:
    """{row: what is wrong}, of rows whose files could not be read."""
    every = asked.index if asked.how is None else np.concatenate([asked.index, asked.how.partner])
    return {int(every[place]): what for x in asked.files.values() for place, what in x.unreadable.items()}
