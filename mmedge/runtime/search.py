"""Looking for what belongs to something: an index of vectors on disk, the nearest of them, and labels never trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mmedge.errors import MmedgeError, UsageError
from mmedge.runtime import approximate

Stored = Literal["float32", "int8", "hnsw"]
_META, _VECTORS, _SCALES, _GRAPH = "index.json", "embeddings.npy", "scales.npy", "neighbours.usearch"
# Vectors of int8 that are made float32 at a time: they then stay in the processor's cache.
_AT_A_TIME = 8192
# Queries, drawn from the items themselves, and their nearest that tell what int8 or a graph of neighbours costs.
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
    what made them; ``bundle``: the sha256 of the bundle that it is of; ``kept``: where search is not exact (int8, hnsw) the
    share of the 10 nearest that are still among the 10 nearest, else None; ``graph``: of hnsw, whose search does not
    compare all.
    """

    vectors: np.ndarray
    scales: np.ndarray | None
    ids: tuple[str, ...]
    tower: str
    bundle: str
    kept: float | None = None
    graph: Any = None

    def __len__(self) -> int:
        return len(self.ids)

    def nearest(self, vector: np.ndarray, k: int) -> list[Hit]:
        """The ``k`` items whose vectors have the largest cosine with ``vector``, float32 [dimensions], the nearest first.

        Every item is compared, but of hnsw: 100,000 of 64 dimensions are 26 MB to read. Fewer come where the index has
        fewer.
        """
        length = float(np.linalg.norm(vector))
        unit, k = vector / length if length else vector, min(k, len(self.ids))
        if self.graph is not None:
            rows = approximate.near(self.graph, unit, k)
            scores = np.asarray(self.vectors[rows] @ unit)
        else:
            scores = self._products(unit)
            rows = np.argpartition(scores, len(scores) - k)[len(scores) - k :]
            scores = scores[rows]
        order = np.lexsort((rows, -scores))
        return [Hit(self.ids[row], row, score) for row, score in zip(rows[order].tolist(), scores[order].tolist())]

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

    ``int8`` takes a quarter of the room: each vector's largest number becomes 127 (symmetric, a scale a vector). ``hnsw``
    writes a graph of neighbours beside them, for what is too much to compare whole. Raises UsageError where there is
    nothing, or as many ids as items are not given, MissingDependency where usearch is not installed.
    """
    if not len(vectors):
        raise UsageError("there is nothing to index", where=str(path), todo="give at least one item")
    if len(ids) != len(vectors) or len(set(ids)) < len(ids):
        raise UsageError(
            f"{len(set(ids))} different ids are given for {len(vectors)} items",
            where=str(path),
            todo="give each its own",
        )
    if stored not in get_args(Stored):
        raise UsageError(f"an index is stored as {', '.join(get_args(Stored))}, not {stored!r}")
    path.mkdir(parents=True, exist_ok=True)
    for name in (_META, _SCALES, _GRAPH):  # interrupted, the first would vouch for other vectors
        (path / name).unlink(missing_ok=True)
    vectors = np.ascontiguousarray(vectors, np.float32)
    found = Index(vectors, None, tuple(ids), tower, bundle)
    if stored == "int8":
        scales = (np.maximum(np.abs(vectors).max(axis=1), 1e-12) / 127).astype(np.float32)
        found = replace(found, vectors=np.round(vectors / scales[:, None]).astype(np.int8), scales=scales)
        np.save(path / _SCALES, scales)
    elif stored == "hnsw":
        approximate.build(vectors, path / _GRAPH)
        found = replace(found, graph=approximate.opened(path / _GRAPH, vectors))
    np.save(path / _VECTORS, found.vectors)
    kept = None if stored == "float32" else _kept(vectors, found)
    meta = {"schema": 1, "bundle": bundle, "tower": tower, "stored": stored, "kept": kept, "ids": list(ids)}
    (path / _META).write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")
    return read_index(path, bundle)


def _kept(vectors: np.ndarray, other: Index) -> float:
    """The mean share of an item's nearest, by ``vectors``, that are among its nearest in another index of the same items."""
    exact = Index(vectors, None, other.ids, other.tower, other.bundle)
    asked = np.linspace(0, len(vectors) - 1, min(_QUERIES, len(vectors))).astype(int)
    shares = []
    for row in asked:
        first, second = ({hit.row for hit in each.nearest(vectors[row], _NEAREST)} for each in (exact, other))
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
        graph = approximate.opened(path / _GRAPH, vectors) if meta["stored"] == "hnsw" else None
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
    return Index(np.asarray(vectors), scales, ids, tower, of_bundle, kept, graph)


def likeliest(query: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [labels]: how likely each label's vector [labels, D] belongs to the query's [D], by the learned temperature.

    Radford et al. 2021, section 3.1: the softmax of what training contrasted, both as long as the network gives them.
    """
    products = (labels @ query).astype(np.float64)
    shifted = np.exp(products - products.max())
    return np.asarray(shifted / shifted.sum())
