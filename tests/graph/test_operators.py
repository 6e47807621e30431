"""Operators: each answers as ONNX Runtime does, over its attributes and optional inputs."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mmedge.backends import onnxruntime_cpu
from mmedge.graph.operators import OPERATORS
from mmedge.graph.trainable import TrainableGraph

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


X = floats(2, 4, 6, 6)
ABOVE = np.abs(X) + np.float32(0.5)
ints = lambda *values: np.array(values, np.int64)  # noqa: E731
BITS = X > 0
# (operator, inputs, attributes); the first input is fed, the others are stored in the graph.
CASES = [
    *[(name, [X], {}) for name in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Identity", "IsNaN")],
    *[(name, [X], {}) for name in ("Mish", "Neg", "Relu", "Sigmoid", "Sin", "Softplus", "Tanh", "Shape", "Dropout")],
    *[(name, [ABOVE], {}) for name in ("Log", "Reciprocal", "Sqrt")],
    *[(name, [X, floats(4, 1, 1)], {}) for name in ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Div")],
    *[(name, [X, floats(4, 1, 1)], {}) for name in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")],
    *[(name, [BITS, floats(4, 1, 1) > 0], {}) for name in ("And", "Or")],
    ("Not", [BITS], {}),
    ("Div", [np.array([7, -7, 9]), ints(2, 2, 4)], {}),
    ("Pow", [ABOVE, np.array(2.5, np.float32)], {}),
    ("Where", [BITS, X, floats(4, 1, 1)], {}),
    ("Cast", [X * 3], {"to": TensorProto.INT64}),
    ("Clip", [X, np.array(-0.5, np.float32), np.array(0.7, np.float32)], {}),
    ("Clip", [X, None, np.array(0.7, np.float32)], {}),
    ("Elu", [X], {"alpha": 0.7}),
    ("LeakyRelu", [X], {"alpha": 0.2}),
    ("HardSigmoid", [X], {"alpha": 0.3}),
    ("PRelu", [X, floats(4, 1, 1)], {}),
    ("Gelu", [X], {}),
    ("Gelu", [X], {"approximate": "tanh"}),
    ("Softmax", [X], {"axis": 1}),
    ("LogSoftmax", [X], {}),
    ("Conv", [X, floats(6, 2, 3, 3), floats(6)], {"group": 2, "pads": [1, 0, 1, 2], "strides": [2, 1]}),
    ("Conv", [X, floats(5, 4, 3, 3)], {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    ("Conv", [X, floats(5, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [floats(2, 4, 9), floats(3, 4, 5)], {"pads": [2, 2]}),
    ("ConvTranspose", [X, floats(4, 3, 2, 2)], {"strides": [2, 2]}),
    ("Gemm", [floats(3, 4), floats(5, 4), floats(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [floats(4, 3), floats(4, 5)], {"transA": 1}),
    ("MatMul", [floats(2, 3, 4), floats(4, 5)], {}),
    ("Einsum", [floats(2, 3, 4), floats(2, 4, 5)], {"equation": "bij,bjk->bik"}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("MaxPool", [X], {"kernel_shape": [4, 4], "strides": [3, 3], "ceil_mode": 1}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("GlobalAveragePool", [X], {}),
    ("GlobalMaxPool", [X], {}),
    ("BatchNormalization", [X, floats(4), floats(4), floats(4), np.abs(floats(4))], {"epsilon": 1e-3}),
    ("LayerNormalization", [X, floats(6), floats(6)], {"axis": -1}),
    ("GroupNormalization", [X, floats(4), floats(4)], {"num_groups": 2}),
    ("InstanceNormalization", [X, floats(4), floats(4)], {}),
    *[(name, [X, ints(1, -1)], {"keepdims": 0}) for name in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")],
    ("ReduceL2", [X], {}),
    ("ReduceMean", [X], {"noop_with_empty_axes": 1}),
    ("Reshape", [X, ints(0, -1, 3)], {}),
    ("Flatten", [X], {"axis": 2}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}),
    ("Transpose", [X], {}),
    ("Concat", [X, floats(2, 1, 6, 6)], {"axis": 1}),
    ("Slice", [X, ints(1, -1), ints(4, -7), ints(1, 2), ints(2, -2)], {}),
    ("Gather", [X, np.array([[0, -1], [2, 1]])], {"axis": 1}),
    ("Gather", [floats(4), np.array(-2)], {}),  # a dimension of a shape
    ("Unsqueeze", [X, ints(0, -1)], {}),
    ("Squeeze", [floats(1, 3, 1, 2), ints(0)], {}),
    ("Squeeze", [floats(1, 3, 1, 2)], {}),
    ("Split", [X, ints(1, 3)], {"axis": 1}),
    ("Split", [floats(2, 5)], {"axis": 1, "num_outputs": 2}),
    ("Expand", [floats(4, 1), ints(2, 4, 3)], {}),
    ("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(np.array([3], np.int64))}),
    ("Pad", [X, ints(0, 0, 1, 0, 0, 0, 2, 1), np.array(1.5, np.float32)], {}),
    ("Pad", [X, ints(0, 0, 1, 1, 0, 0, 2, 1)], {"mode": "reflect"}),
    ("Range", [np.array(1), np.array(9), np.array(3)], {}),
    ("Tile", [X, ints(1, 2, 1, 1)], {}),
    ("Trilu", [X], {"upper": 0}),
    ("Constant", [], {"value": numpy_helper.from_array(floats(3))}),
]


def single(operator, inputs, attributes, path):
    """A graph of one node; its first input is fed."""
    names = [f"x{at}" if value is not None else "" for at, value in enumerate(inputs)]
    count = {"Split": attributes.get("num_outputs", 2)}.get(operator, 1)
    node = helper.make_node(operator, names, [f"y{at}" for at in range(count)], **attributes)
    kind = {np.dtype(np.float32): 1, np.dtype(np.int64): 7, np.dtype(bool): 9}
    fed = [helper.make_tensor_value_info("x0", kind[inputs[0].dtype], inputs[0].shape)] if inputs else []
    stored = [numpy_helper.from_array(np.asarray(value), f"x{at}") for at, value in enumerate(inputs) if at and value is not None]  # fmt: skip
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "single", fed, outputs, stored)
    inferred = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    )
    onnx.save(inferred, path)


@pytest.mark.parametrize(("operator", "inputs", "attributes"), CASES, ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_an_operator_answers_as_onnx_runtime_does(operator, inputs, attributes, tmp_path):
    single(operator, inputs, attributes, tmp_path / "one.onnx")
    fed = {"x0": inputs[0]} if inputs else {}
    expected = onnxruntime_cpu.session(tmp_path / "one.onnx", optimize=False)(fed)
    actual = TrainableGraph(tmp_path / "one.onnx")(**{name: torch.from_numpy(x) for name, x in fed.items()})
    for name, value in expected.items():
        found = actual[name].detach().numpy()
        assert found.shape == value.shape and found.dtype == value.dtype
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=2e-6)


def test_every_operator_of_the_table_is_tried_above():
    assert {operator for operator, *_ in CASES} == set(OPERATORS)
