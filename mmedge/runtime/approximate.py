"""The nearest of very many vectors without comparing them all: a graph of neighbours (HNSW, Malkov & Yashunin 2018) by usearch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MissingDependency

# Neighbours that are looked at beside those that are wanted: what this costs and finds stands in docs/retrieval.md.
_LOOKED = 64
# Vectors of a graph that are held against those beside it when it is opened.
_COMPARED = 16


def build(vectors: np.ndarray, path: Path) -> None:
    """Write the graph of vectors, float32 [n, dimensions] of unit length, which it keeps as float16; by all cores."""
    graph = _usearch().Index(ndim=vectors.shape[1], metric="ip", dtype="f16", expansion_search=_LOOKED)
    graph.add(np.arange(len(vectors), dtype=np.uint64), vectors)
    graph.save(str(path))


def opened(path: Path, vectors: np.ndarray) -> Any:
    """The graph in a file, mapped from disk; raises ValueError where it is none of these vectors [n, dimensions]."""
    try:
        graph = _usearch().Index.restore(str(path), view=True)
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    if graph is None or (len(graph), graph.ndim) != vectors.shape:
        raise ValueError(f"{path.name} is no graph of vectors of shape {list(vectors.shape)}")
    rows = np.linspace(0, len(vectors) - 1, min(_COMPARED, len(vectors))).astype(np.int64)
    if not np.allclose(graph.get(rows.astype(np.uint64)), vectors[rows], atol=1e-2):
        raise ValueError(f"{path.name} is the graph of other vectors")
    return graph


def near(graph: Any, vector: np.ndarray, k: int) -> np.ndarray:
    """int64 [at most k]: the rows that are likely the nearest to a vector, float32 [dimensions]."""
    return np.asarray(graph.search(np.asarray(vector, np.float32), k, threads=1).keys).astype(np.int64)


def _usearch() -> Any:
    try:
        from usearch import index
    except ImportError:
        raise MissingDependency(
            "an index stored as hnsw needs the package usearch, which is not installed",
            todo="pip install 'mmedge[search]', or store it as float32: exact search of 100,000 items takes a few ms",
        ) from None
    return index
