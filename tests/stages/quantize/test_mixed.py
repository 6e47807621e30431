"""The search for the layers that must stay in float."""

import numpy as np
import onnx

from mmedge.graph import qdq
from mmedge.measure.budget import WHOLE
from mmedge.progress import Silent
from mmedge.stages.quantize import mixed
from mmedge.stages.quantize.evaluation import joined
from tests.stages.quantize.scaled import scaled


def searched(graph, reference, outputs, tmp_path, *, most=0.02, seconds=60.0):
    """A search whose budget is on the outputs' error, which leaves nothing to chance."""
    expected = outputs(reference)
    given = mixed.Search(
        graph,
        reference,
        outputs=outputs,
        overshoot=lambda part: mixed.distance(expected, outputs(part)) - most,
        progress=Silent(),
        seconds=seconds,
        cache=tmp_path / "work" / "known",
    )
    return mixed.search(given, tmp_path / "mixed.onnx")


def test_the_layer_that_quantization_breaks_goes_back_to_fp32_and_the_others_stay(graphs, outputs, tmp_path):
    int8, fp32 = graphs
    first = next(layer for layer in qdq.layers(onnx.load(int8)) if layer.branch == "audio" and layer.kind == "Conv")
    broken = scaled(int8, "audio", 1 / 64, tmp_path / "broken.onnx")  # nearly all of the sound is clipped
    expected = outputs(fp32)
    # Between what INT8 costs this network where nothing is broken, whatever its training came to, and what it costs broken.
    whole, hurt = (mixed.distance(expected, outputs(graph)) for graph in (int8, broken))
    assert hurt > 1.5 * whole
    most = whole + 0.3 * (hurt - whole)
    found = searched(broken, fp32, outputs, tmp_path, most=most)
    assert found.found and [group.label for group in found.groups if group.fp32] == [first.label]
    assert max(found.groups, key=lambda group: group.error).label == first.label
    assert found.branches["audio"] > found.branches["image"]
    assert mixed.distance(expected, outputs(tmp_path / "mixed.onnx")) <= most
    again = searched(broken, fp32, outputs, tmp_path, most=most)
    assert again.evaluations == 0 and again.groups == found.groups


def test_where_one_modality_alone_misses_the_budget_the_errors_of_its_samples_decide():
    of = {WHOLE: np.zeros((2, 1)), "a": np.ones((2, 1)), "b": np.full((2, 1), 2.0), "c": np.full((2, 1), 3.0)}
    assert joined(of, ["b"]).tolist() == [[2.0], [2.0]]
    assert joined(of, ["a+c"]).tolist() == [[1.0], [1.0], [3.0], [3.0]]  # each of a subset's modalities
    for missed in ((), [WHOLE, "b"]):
        assert joined(of, missed).tolist() == joined(of).tolist() and len(joined(of, missed)) == 8
    assert joined({WHOLE: np.zeros((2, 1))}, ["b"]).tolist() == [[0.0], [0.0]]  # outputs of a file's calls


def test_what_was_measured_on_other_samples_is_measured_again(graphs, outputs, tmp_path):
    first = searched(*graphs, outputs, tmp_path, most=-1.0)
    assert searched(*graphs, lambda graph: outputs(graph)[::-1], tmp_path, most=-1.0).evaluations == first.evaluations
    assert searched(*graphs, outputs, tmp_path, most=-1.0).evaluations == 0


def test_a_search_that_finds_nothing_writes_nothing_and_says_why(graphs, outputs, tmp_path):
    found = searched(*graphs, outputs, tmp_path, most=-1.0)
    assert not found.found and found.said == "only FP32 holds the budget" and not (tmp_path / "mixed.onnx").exists()
    late = searched(*graphs, outputs, tmp_path / "late", seconds=1e-9)
    assert not late.found and "the time of 1e-09 s ended first" in late.said


def test_layers_of_one_attention_or_block_are_judged_together_where_there_are_many():
    layers = [
        qdq.QuantizedLayer(f"n{block}{part}{index}", "MatMul", f"name.layer.{block}.{part}.{index}", "name", 1)
        for block in range(6)
        for part in ("attention", "feed")
        for index in range(3)
    ]
    assert len(mixed.grouped(layers, 40)) == 36
    parts = mixed.grouped(layers, 14)
    assert [group.label for group in parts[:2]] == ["name.layer.0.attention", "name.layer.0.feed"] and len(parts) == 12
    assert [group.label for group in mixed.grouped(layers, 6)] == [f"name.layer.{block}" for block in range(6)]
    assert len(mixed.grouped(layers, 4)) == 4  # a place for all would be one group
    assert mixed.grouped([], 4) == []


def test_many_layers_are_judged_in_groups_of_one_branch(graphs):
    layers = qdq.layers(onnx.load(graphs[0]))
    groups = mixed.grouped(layers, 4)
    assert [name for group in groups for name in group.names] == [
        layer.name for branch in ("image", "audio", "fusion") for layer in layers if layer.branch == branch
    ]
    assert all(len({layer.branch for layer in group.layers}) == 1 for group in groups) and len(groups) < len(layers)
