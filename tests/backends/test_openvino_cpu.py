"""OpenVINO's engines follow from their graph alone."""

import pytest

from mmedge.backends import openvino_cpu
from mmedge.backends.backend import Job, Options
from tests import small


@pytest.mark.long
def test_the_same_graph_gives_the_same_files_in_one_process(tmp_path):
    """OpenVINO names what it makes by a counter of the process; its names of inputs and outputs stay the graph's."""
    small.write_graph(tmp_path / "model.onnx")
    for stem in ("one", "two"):
        openvino_cpu.build(Job(tmp_path / "model.onnx", stem, {}, Options()))
    for ending in ("xml", "bin"):
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()
    assert set(openvino_cpu.session(tmp_path / "one.xml").inputs) == {"image", "vitals", "present"}
