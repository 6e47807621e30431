"""In which form a teacher's outputs lie in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Form:
    """``dtype``: of what is kept; ``top``: how many of the largest logits of the heads ``exclusive``, all where None."""

    dtype: Literal["float32", "float16"] = "float32"
    top: int | None = None
    exclusive: frozenset[str] = frozenset()

    def packed(self, x: np.ndarray, head: str | None = None) -> np.ndarray:
        """Outputs [N, ...] as they are kept: a row a sample; float32 where float16 does not reach so far.

        Beside the ``top`` logits of a head the logarithm of what the others' exponentials come to is kept.
        """
        if x.dtype != np.float32:
            return x
        if head not in self.exclusive or self.top is None or x.ndim != 2 or x.shape[1] <= self.top + 1:
            return self._small(x)
        index = np.argpartition(-x, self.top - 1, axis=1)[:, : self.top]
        rest = np.array(x, np.float64)
        np.put_along_axis(rest, index, -np.inf, axis=1)
        most = rest.max(axis=1)
        values = [np.take_along_axis(x, index, axis=1), (most + np.log(np.exp(rest - most[:, None]).sum(axis=1)))]
        values = [self._small(value.astype(np.float32)) for value in values]
        number = np.uint16 if x.shape[1] <= 1 << 16 else np.uint32
        form = [("values", values[0].dtype, (self.top,)), ("rest", values[1].dtype), ("index", number, (self.top,)), ("width", np.uint32)]  # fmt: skip
        out = np.empty(len(x), form)
        out["values"], out["rest"], out["index"], out["width"] = *values, index, x.shape[1]
        return out

    def _small(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # seen below
            small = x.astype(self.dtype)
        return small if np.isfinite(small).all() else x


# Outputs as they are.
WHOLE = Form()


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """What ``packed`` gave of some rows after others, in the wider dtype where float16 did not reach as far in all of them."""
    if parts[0].dtype.names is None or len({part.dtype for part in parts}) == 1:
        return np.concatenate(parts)
    fields = {name: np.concatenate([part[name] for part in parts]) for name in parts[0].dtype.names}
    return _of_fields(fields, np.dtype([(name, x.dtype, x.shape[1:]) for name, x in fields.items()]))


def widened(kept: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """What ``packed`` gave, in a dtype that reaches as far or farther."""
    if dtype.names is None or kept.dtype == dtype:
        return kept.astype(dtype, copy=False)
    return _of_fields({name: kept[name] for name in dtype.names}, dtype)


def _of_fields(fields: Mapping[str, np.ndarray], dtype: np.dtype) -> np.ndarray:
    """Field by field: numpy's own cast of rows whose fields hold several numbers reads beyond them."""
    out = np.empty(len(next(iter(fields.values()))), dtype)
    for name, x in fields.items():
        out[name] = x
    return out


def restored(kept: np.ndarray) -> np.ndarray:
    """Outputs [N, ...] in float32, bool as it is; of logits that were left out each has an even share of their sum."""
    if kept.dtype.names is None:
        return kept if kept.dtype == bool else kept.astype(np.float32)
    if not len(kept):
        return np.zeros((0, 1), np.float32)
    width, top = int(kept["width"][0]), kept["values"].shape[1]
    out = np.repeat(kept["rest"].astype(np.float32)[:, None] - np.float32(np.log(width - top)), width, axis=1)
    np.put_along_axis(out, kept["index"].astype(np.int64), kept["values"].astype(np.float32), axis=1)
    return out
