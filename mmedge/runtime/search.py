"""Looking for what belongs to something: an index of vectors on disk, the nearest of them, and labels never trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mmedge.errors import MmedgeError, UsageError

Stored = Literal["float32", "int8"]
_META, _VECTORS, _SCALES = "index.json", "embeddings.npy", "scales.npy"
# Vectors of int8 that are made float32 at a time: they then stay in the processor's cache.
_AT_A_TIME = 8192
# Queries, drawn from the items themselves, and their nearest that tell what int8 costs.
_QUERIES, _NEAREST = 500, 10


@dataclass(frozen=True)
class Hit:
    """An item that was found: its id, its row in the index from 0, and the cosine of its vector and the query's."""

    id: str
    row: int
    score: float


@dataclass(frozen=True)
class Index:
    """Vectors of items, read from disk as they are needed.

    ``vectors``: float32 [n, dimensions] of unit length, or int8 with ``scales``, float32 [n], to multiply by; ``tower``:
    what made them; ``bundle``: the sha256 of the bundle that it is of; ``kept``: of int8 the share of the 10 nearest of
    float32 that are still among the 10 nearest, None of float32.
    """

    vectors: np.ndarray
    scales: np.ndarray | None
    ids: tuple[str, ...]
    tower: str
    bundle: str
    kept: float | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def nearest(self, vector: np.ndarray, k: int) -> list[Hit]:
        """The ``k`` items whose vectors have the largest cosine with ``vector``, float32 [dimensions], the nearest first.

        Every item is compared: 100,000 of 64 dimensions are 26 MB to read. Fewer come where the index has fewer.
        """
        length = float(np.linalg.norm(vector))
        scores = self._products(vector / length if length else vector)
        k = min(k, len(scores))
        rows = np.argpartition(scores, len(scores) - k)[len(scores) - k :]
        rows = rows[np.lexsort((rows, -scores[rows]))]
        return [Hit(self.ids[row], row, score) for row, score in zip(rows.tolist(), scores[rows].tolist())]

    def _products(self, vector: np.ndarray) -> np.ndarray:
        if self.scales is None:
            return np.asarray(self.vectors @ vector)
        starts = range(0, len(self.vectors), _AT_A_TIME)
        parts = [self.vectors[start : start + _AT_A_TIME].astype(np.float32) @ vector for start in starts]
        return np.concatenate(parts) * self.scales


def write_index(
    path: Path, vectors: np.ndarray, ids: Sequence[str], *, tower: str, bundle: str, stored: Stored = "float32"
) -> Index:
    """Write an index into the folder ``path`` and open it. ``vectors``: float32 [n, dimensions] of unit length.

    ``int8`` takes a quarter of the room: each vector's largest number becomes 127 (symmetric, a scale a vector). Raises
    UsageError where there is nothing, or as many ids as items are not given.
    """
    if not len(vectors):
        raise UsageError("there is nothing to index", where=str(path), todo="give at least one item")
    if len(ids) != len(vectors) or len(set(ids)) < len(ids):
        raise UsageError(
            f"{len(set(ids))} different ids are given for {len(vectors)} items",
            where=str(path),
            todo="give each its own",
        )
    if stored not in ("float32", "int8"):
        raise UsageError(f"an index is stored as float32 or int8, not {stored!r}")
    path.mkdir(parents=True, exist_ok=True)
    (path / _META).unlink(missing_ok=True)  # interrupted, it would vouch for other vectors
    (path / _SCALES).unlink(missing_ok=True)
    kept = None
    if stored == "int8":
        scales = np.maximum(np.abs(vectors).max(axis=1), 1e-12) / 127
        small = np.round(vectors / scales[:, None]).astype(np.int8)
        kept = _kept(vectors, small, scales.astype(np.float32), tower, bundle)
        np.save(path / _SCALES, scales.astype(np.float32))
        np.save(path / _VECTORS, small)
    else:
        np.save(path / _VECTORS, np.ascontiguousarray(vectors, np.float32))
    meta = {"schema": 1, "bundle": bundle, "tower": tower, "stored": stored, "kept": kept, "ids": list(ids)}
    (path / _META).write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")
    return read_index(path, bundle)


def _kept(vectors: np.ndarray, small: np.ndarray, scales: np.ndarray, tower: str, bundle: str) -> float:
    """The mean share of an item's nearest that int8 leaves among its nearest."""
    ids = tuple(map(str, range(len(vectors))))
    exact, rounded = Index(vectors, None, ids, tower, bundle), Index(small, scales, ids, tower, bundle)
    asked = np.linspace(0, len(vectors) - 1, min(_QUERIES, len(vectors))).astype(int)
    shares = []
    for row in asked:
        first, second = ({hit.row for hit in each.nearest(vectors[row], _NEAREST)} for each in (exact, rounded))
        shares.append(len(first & second) / len(first))
    return float(np.mean(shares))


def read_index(path: str | Path, bundle: str) -> Index:
    """Open an index that ``write_index`` wrote. ``bundle``: the sha256 of the bundle whose vectors it must hold.

    Raises MmedgeError where it cannot be read, is empty, or is of another bundle, whose space is another one.
    """
    path = Path(path)
    try:
        meta = json.loads((path / _META).read_text(encoding="utf-8"))
        ids, tower, of_bundle, kept = tuple(meta["ids"]), meta["tower"], meta["bundle"], meta["kept"]
        vectors = np.load(path / _VECTORS, mmap_mode="r", allow_pickle=False)
        scales = np.load(path / _SCALES, allow_pickle=False) if meta["stored"] == "int8" else None
        if vectors.ndim != 2 or len(vectors) != len(ids) or (scales is not None and len(scales) != len(ids)):
            raise ValueError("its files do not belong together")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise MmedgeError(
            f"this is no index that can be read: {error}",
            where=str(path),
            todo="make it again: engine.index(items, path)",
        ) from error
    if not ids:
        raise MmedgeError("the index is empty", where=str(path), todo="make it again, of at least one item")
    if of_bundle != bundle:
        raise MmedgeError(
            "the index is of another bundle, whose vectors stand in a space of their own",
            where=str(path),
            todo="open that bundle, or index the items again with this one",
        )
    return Index(np.asarray(vectors), scales, ids, tower, of_bundle, kept)


def likeliest(query: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [labels]: how likely each label's vector [labels, D] belongs to the query's [D], by the learned temperature.

    Radford et al. 2021, section 3.1: the softmax of what training contrasted, both as long as the network gives them.
    """
    products = (labels @ query).astype(np.float64)
    shifted = np.exp(products - products.max())
    return np.asarray(shifted / shifted.sum())
