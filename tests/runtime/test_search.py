"""An index of vectors without an engine: a graph of neighbours beside exact search, and what cannot be read."""

import builtins
import json
import shutil

import numpy as np
import pytest

from mmedge.errors import MissingDependency, MmedgeError, UsageError
from mmedge.runtime.search import read_index, write_index

ITEMS = 2000


@pytest.fixture(scope="module")
def vectors():
    random = np.random.default_rng(0)
    found = random.normal(size=(50, 16))[random.integers(0, 50, ITEMS)] + random.normal(size=(ITEMS, 16)) * 0.5
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def written(vectors, folder, stored):
    ids = [f"v{number}" for number in range(len(vectors))]
    return write_index(folder, vectors, ids, tower="picture", bundle="b", stored=stored)


@pytest.fixture(scope="module")
def graph(vectors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph") / "x"
    written(vectors, folder, "hnsw")
    return folder


def test_a_graph_of_neighbours_finds_what_exact_search_does_and_its_recall_is_told(vectors, graph, tmp_path):
    exact, near = written(vectors, tmp_path / "exact", "float32"), read_index(graph, "b")
    assert exact.kept is None and 0.95 < near.kept <= 1
    for row in range(0, ITEMS, 200):
        first, second = (index.nearest(vectors[row], 5) for index in (exact, near))
        assert second[0].id == f"v{row}" and second[0].score == pytest.approx(1, abs=1e-5)
        assert len({hit.row for hit in first} & {hit.row for hit in second}) >= 4
        assert [hit.score for hit in second] == sorted((hit.score for hit in second), reverse=True)
    assert len(near.nearest(vectors[0], 10 * ITEMS)) <= ITEMS
    assert len(written(vectors[:1], tmp_path / "one", "hnsw").nearest(vectors[0], 3)) == 1


def test_a_graph_that_is_damaged_or_of_other_vectors_is_refused(vectors, graph, tmp_path):
    shutil.copytree(graph, tmp_path / "x")
    written(vectors[:100], tmp_path / "few", "hnsw")
    written(vectors[::-1], tmp_path / "turned", "hnsw")
    others = [(tmp_path / name / "neighbours.usearch").read_bytes() for name in ("few", "turned")]
    for content in (*others, b"", b"nonsense" * 100):
        (tmp_path / "x/neighbours.usearch").write_bytes(content)
        with pytest.raises(MmedgeError, match="no index that can be read"):
            read_index(tmp_path / "x", "b")


def test_without_usearch_what_to_install_is_told_and_other_indexes_work(vectors, tmp_path, monkeypatch):
    real = builtins.__import__

    def blocked(name, *rest):
        if name.startswith("usearch"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", blocked)
    assert written(vectors, tmp_path / "a", "int8").kept > 0.9
    with pytest.raises(MissingDependency, match=r"mmedge\[search\]"):
        written(vectors, tmp_path / "b", "hnsw")


def test_nothing_other_bundles_and_other_forms_are_refused(vectors, graph, tmp_path):
    with pytest.raises(UsageError, match="nothing to index"):
        written(vectors[:0], tmp_path / "x", "float32")
    with pytest.raises(UsageError, match="float32, int8, hnsw, not 'faiss'"):
        written(vectors, tmp_path / "x", "faiss")
    written(vectors[:1], tmp_path / "none", "float32")
    meta = json.loads((tmp_path / "none/index.json").read_text())
    (tmp_path / "none/index.json").write_text(json.dumps(meta | {"ids": []}))
    np.save(tmp_path / "none/embeddings.npy", vectors[:0])
    with pytest.raises(MmedgeError, match="the index is empty"):
        read_index(tmp_path / "none", "b")
    with pytest.raises(MmedgeError, match="of another bundle"):
        read_index(graph, "another")
