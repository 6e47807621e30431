"""What a graph holds and computes, counted."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmedge.graph.counts import count


def test_an_input_without_axes_and_weights_that_are_listed_as_inputs_are_no_batch(tmp_path):
    weight = numpy_helper.from_array(np.ones((6, 4), np.float32), "w")
    inputs = [("x", ["batch", 6]), ("scale", []), ("w", [6, 4])]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Mul", ["y", "scale"], ["z"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "g.onnx")
    assert count(tmp_path / "g.onnx") == (24, 24)
