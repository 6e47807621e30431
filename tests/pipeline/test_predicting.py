"""Measuring, reviewing, comparing and judging look at what a graph gives once: it is run once on a split and a subset."""

import shutil
from collections import Counter

from mmedge.artifact import hash_json, sha256_of
from mmedge.pipeline import fold as pipeline
from mmedge.pipeline import predicting
from mmedge.progress import Silent
from tests.conftest import parsed


def test_a_run_gives_no_graph_the_same_samples_twice_and_opens_each_once(finished, values, tmp_path, monkeypatch):
    given, opened, real = Counter(), Counter(), predicting.opened

    def counting(file, backend, **options):
        session, graph = real(file, backend, **options), sha256_of(file)
        opened[graph] += 1

        def run(inputs):
            given[graph, hash_json([inputs[name].tobytes().hex() for name in sorted(inputs)])] += 1
            return session(inputs)

        return run

    trained, linear = [], predicting.linear_outputs
    monkeypatch.setattr(predicting, "linear_outputs", lambda *given: (trained.append(1), linear(*given))[1])
    monkeypatch.setattr(predicting, "opened", counting)
    out = finished.whole_copy(tmp_path / "out")
    shutil.rmtree(out / ".work/measured")
    values["gates"] = {}
    report = pipeline.run(parsed(values), out, code=tmp_path, progress=Silent()).report.record()
    assert trained == [1] and report["disagreements"] and report["contributions"] and report["stages"][0]["review"]
    assert any(stage["gates"] for stage in report["stages"])
    graphs = {sha256_of(out / stage["stage"] / "model.onnx") for stage in report["stages"]}
    assert set(opened.values()) == {1} and set(opened) == graphs
    # Validation and test in a batch each, with each of three subsets; what a student lacks of them is none.
    assert set(given.values()) == {1} and len(given) == 2 * 3 * len(graphs)
