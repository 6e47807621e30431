"""Samples that are decoded when they are read, at each epoch anew: nothing is written, and training begins at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmedge import preprocess
from mmedge.data.store.forms import forms, packed
from mmedge.errors import MmedgeError
from mmedge.preprocess.cells import value_of
from mmedge.spec import ModalitySpec


@dataclass(frozen=True)
class Files:
    """The raw files of one modality of a split, read as ``Shards`` are.

    ``cells``: of each row what its columns hold, None where it lacks the modality; ``ids``: the rows' names, for errors;
    ``strict``: a file that cannot be read raises MmedgeError, and is 0 otherwise; ``unreadable``: {row: what was wrong},
    of what this process has read.
    """

    name: str
    spec: ModalitySpec
    folder: Path
    cells: Sequence[tuple[Any, ...] | None]
    ids: Sequence[str]
    strict: bool
    unreadable: dict[int, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.cells)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return self.spec.shape

    @property
    def form(self) -> str:
        """The dtype that ``read`` gives: pixels are bytes, and other features as they are."""
        return forms(self.spec)[0] if self.spec.pixels else self.spec.dtype

    def alone(self, rows: np.ndarray) -> Files:
        """Some of the rows (int64), in that order, which have read nothing yet."""
        cells, ids = ([every[row] for row in rows.tolist()] for every in (self.cells, self.ids))
        return replace(self, cells=cells, ids=ids, unreadable={})  # type: ignore[arg-type]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """[batch, *shape] of the dtype ``form``: some rows (int64), 0 where the modality is missing."""
        out = np.zeros((len(rows), *self.shape), self.form)
        for place, row in enumerate((rows % self.count).tolist()):
            cells = self.cells[row]
            if cells is None:
                continue
            try:
                features = preprocess.raw_features(self.spec, value_of(self.spec, cells, self.folder), self.name)
                if not np.isfinite(features).all():
                    raise MmedgeError(f"the {self.name} holds NaN or infinite values")
            except MmedgeError as error:
                if self.strict:
                    where = f"sample {self.ids[row]}: {cells[0]}"
                    raise MmedgeError(error.what, where=where, todo="mend it, or leave it out") from error
                self.unreadable[row] = f"{error.what}: {cells[0]}"
                continue
            out[place] = packed(self.spec, self.form, features)
        return out
