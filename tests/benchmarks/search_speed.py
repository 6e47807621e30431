"""How long the exact search of an index takes: ``python -m tests.benchmarks.search_speed``, with OMP_NUM_THREADS=1.

Vectors drawn by chance, 100,000 of 64 dimensions: the time does not depend on what they say.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np

from mmedge.runtime.search import Stored, write_index

ITEMS, DIMENSIONS, QUERIES = 100_000, 64, 200


def main() -> None:
    vectors = np.random.default_rng(0).standard_normal((ITEMS, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for stored in get_args(Stored):
        with tempfile.TemporaryDirectory() as folder:
            ids = list(map(str, range(ITEMS)))
            index = write_index(Path(folder), vectors, ids, tower="t", bundle="b", stored=stored)
            taken = []
            for query in vectors[:QUERIES]:
                began = time.perf_counter()
                index.nearest(query, 5)
                taken.append(1000 * (time.perf_counter() - began))
        kept = "" if index.kept is None else f", {index.kept:.1%} of the ten nearest kept"
        print(f"{stored}: median {np.median(taken):.2f} ms, least {min(taken):.2f} ms{kept}")


if __name__ == "__main__":
    main()
