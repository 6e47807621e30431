"""An ONNX file is read whole, with the weights beside it, wherever links lead."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mmedge.backends import onnxruntime_cpu
from mmedge.errors import MmedgeError
from mmedge.graph.files import loaded

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def apart(tmp_path):
    """A model in ``blobs``, with its weights in another file, as the Hugging Face cache keeps both: by links from elsewhere."""
    blobs, shown = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    shown.mkdir(parents=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3])],
        [helper.make_tensor_value_info("y", 1, ["n", 4])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    for number, name in enumerate(("model.onnx", "model.onnx_data")):
        (tmp_path / name).rename(blobs / str(number))
        (shown / name).symlink_to(blobs / str(number))
    return shown / "model.onnx"


def test_weights_behind_links_are_read(apart):
    model = loaded(apart)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), WEIGHT)
    onnx.checker.check_model(model)


def test_weights_that_are_not_there_or_end_early_or_lie_outside_are_told(apart):
    (apart.parent / "model.onnx_data").resolve().write_bytes(b"short")
    with pytest.raises(MmedgeError, match="end too early"):
        loaded(apart)
    (apart.parent / "model.onnx_data").unlink()
    with pytest.raises(MmedgeError, match="keeps its weights in model.onnx_data"):
        loaded(apart)
    model = onnx.load(apart, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../../secret"
    onnx.save(model, apart.parent / "other.onnx")
    with pytest.raises(MmedgeError, match="outside its folder"):
        loaded(apart.parent / "other.onnx")


def test_shapes_in_another_file_are_told_as_such_and_not_as_a_file_that_is_missing(tmp_path):
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]> g (float[2, 3] x) => (float[3, 2] y) <int64[2] s = {3, 2}> { y = Reshape (x, s) }
    """)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array([3, 2]), "s"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    with pytest.raises(MmedgeError, match="small tensors, such as shapes, in another file"):
        onnxruntime_cpu.session(tmp_path / "m.onnx")
