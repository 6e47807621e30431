"""Latency of graphs: one file is timed once, however many stages have it; others are judged by an interval of their ratio."""

import shutil

import numpy as np
import pytest

from mmedge.measure.latency import Latencies, ratios_to, time_graphs
from mmedge.progress import Silent
from mmedge.recipe import Measure
from tests.small import write_graph

MEASURE = Measure(runs=40, warmup=8)
FEED = {
    "image": np.zeros((1, 1, 8, 8), np.float32),
    "vitals": np.ones((1, 3), np.float32),
    "present": np.ones((1, 2), bool),
}


@pytest.fixture
def graphs(tmp_path):
    write_graph(tmp_path / "a.onnx")
    write_graph(tmp_path / "larger.onnx", channels=96)
    shutil.copyfile(tmp_path / "a.onnx", tmp_path / "b.onnx")
    return {name: tmp_path / f"{name}.onnx" for name in ("a", "b", "larger")}


def test_one_file_has_one_figure_under_all_its_names(graphs):
    found = time_graphs(graphs, FEED, MEASURE, Silent())
    assert found.timing("a") == found.timing("b") != found.timing("larger")
    ratio = found.ratio("b", "a")
    assert (ratio.value, ratio.low, ratio.high, ratio.faster) == (1.0, 1.0, 1.0, False)
    assert found.ratio("larger", "a").low > 1 and found.ratio("a", "larger").faster


def test_one_file_on_other_inputs_is_timed_for_itself(graphs):
    batch = {name: np.repeat(value, 64, axis=0) for name, value in FEED.items()}
    found = time_graphs({"a": graphs["a"], "b": graphs["b"]}, FEED, MEASURE, Silent(), {"b": batch})
    assert found.timing("b").p50_ms > found.timing("a").p50_ms


def test_a_copy_of_the_reference_is_no_faster_than_it(graphs):
    ratio = ratios_to(graphs["a"], {"copy": graphs["b"]}, FEED, MEASURE, Silent())["copy"]
    assert ratio.record() == {
        "value": 1.0, "low": 1.0, "high": 1.0, "ours_ms": ratio.theirs_ms, "theirs_ms": ratio.theirs_ms,
    }  # fmt: skip


def test_a_ratio_is_of_medians_and_lies_in_its_interval():
    spans = {"ours": [[10, 20, 30], [12, 22, 32]], "theirs": [[40, 44, 48], [40, 40, 44]]}
    ratio = Latencies({name: [np.array(each) for each in taken] for name, taken in spans.items()}).ratio(
        "ours", "theirs"
    )
    assert ratio.value == pytest.approx(21 / 42) and ratio.low < ratio.value < ratio.high
    assert (ratio.ours_ms, ratio.theirs_ms) == (21e-6, 42e-6)
