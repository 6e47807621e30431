"""A graph in as few bytes as can be answers as before, under the names of its inputs and outputs."""

import numpy as np
import onnx
import pytest

from mmedge.backends import onnxruntime_cpu, openvino_cpu
from mmedge.graph import terse

NODES = {
    "defaults and what differs from them": """
        a_long_name = Conv<strides = [2, 2], pads = [1, 1, 1, 1], dilations = [1, 1], group = 1> (x, a_weight)
        pooled = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 0> (a_long_name)
        padded = Pad (pooled, some_pads)
        flat = Flatten<axis = 1> (padded)
        y = Gemm<alpha = 1.0, beta = 0.5, transB = 1> (flat, a_matrix, a_bias)""",
    "branches that read what is around them, under the shortest of names": """
        flat = Flatten (x)
        summed = ReduceSum (flat)
        positive = Greater (summed, zero)
        y = If (positive) <
            then_branch = yes () => (float[batch, 192] a) { b = Relu (flat) a = Add (b, b) },
            else_branch = no () => (float[batch, 192] c) { c = Neg (flat) }
        >""",
    "a value that a node makes of nothing": """
        shape = Shape (x)
        filled = ConstantOfShape<value = float[1] {2.0}> (shape)
        times = Mul (x, filled)
        y = Flatten (times)""",
}
CONSTANTS = {
    "a_weight": np.random.default_rng(0).normal(size=(6, 3, 3, 3)).astype(np.float32),
    "some_pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "a_matrix": np.random.default_rng(1).normal(size=(4, 96)).astype(np.float32),
    "a_bias": np.arange(4, dtype=np.float32),
    "zero": np.float32(0),
}


def graph(kind, path):
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> graph (float[batch, 3, 8, 8] x) => (float[batch, m] y) {{ {NODES[kind]} }}'
    )
    read = {name for node in model.graph.node for name in node.input} | {"zero"} & set(NODES[kind].split())
    for name in sorted(read & set(CONSTANTS)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(CONSTANTS[name], name))
    for number, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"a_node_{number}", "where it came from"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("kind", "session"),
    [(kind, onnxruntime_cpu.session) for kind in NODES]
    + [("defaults and what differs from them", openvino_cpu.session)],
)
def test_a_shortened_graph_answers_as_before_in_fewer_bytes(kind, session, tmp_path):
    path = graph(kind, tmp_path / "m.onnx")
    x = {"x": np.random.default_rng(2).normal(size=(3, 3, 8, 8)).astype(np.float32)}
    before, size = [session(path)(each)["y"] for each in (x, {"x": -x["x"]})], path.stat().st_size
    terse.shorten(path)
    assert path.stat().st_size < size - 100
    for expected, each in zip(before, (x, {"x": -x["x"]})):
        np.testing.assert_array_equal(session(path)(each)["y"], expected)


def test_only_what_is_so_without_it_goes(tmp_path):
    path = graph("defaults and what differs from them", tmp_path / "m.onnx")
    terse.shorten(path)
    conv, pool, _, flatten, gemm = onnx.load(path).graph.node
    assert {each.name for each in conv.attribute} == {"strides", "pads"}
    assert {each.name for each in pool.attribute} == {"kernel_shape", "strides"}
    assert not flatten.attribute and {each.name for each in gemm.attribute} == {"beta", "transB"}
    assert not any(len(name) > 1 for name in conv.output)
