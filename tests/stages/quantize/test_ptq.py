"""INT8 by NNCF, on graphs that are no demo's."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mmedge.backends import onnxruntime_cpu, openvino_cpu
from mmedge.errors import MmedgeError
from mmedge.graph import precision, qdq
from mmedge.stages.quantize import calibration, candidates, ptq
from mmedge.stages.quantize.mixed import distance


def test_a_graph_with_shapes_that_depend_on_its_data_is_quantized_around_them(tmp_path):
    """Positive values alone go on: NonZero gives as many rows as there are, and for some samples none."""
    random = np.random.default_rng(1)
    stored = {"w": random.standard_normal((8, 4)).astype(np.float32), "v": random.standard_normal((1, 3)), "one": [1]}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["c"], "first"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("NonZero", ["r"], ["n"], "nonzero"),
        helper.make_node("Transpose", ["n"], ["t"], "transpose", perm=[1, 0]),
        helper.make_node("GatherND", ["r", "t"], ["g"], "gathernd"),
        helper.make_node("Unsqueeze", ["g", "one"], ["u"], "unsqueeze"),
        helper.make_node("MatMul", ["u", "v"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["found", 3])],
        [
            numpy_helper.from_array(np.asarray(value, np.int64 if name == "one" else np.float32), name)
            for name, value in stored.items()
        ],
    )
    path = tmp_path / "x.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    inputs = [{"x": random.standard_normal((1, 8)).astype(np.float32)} for _ in range(8)]
    inputs += [{"x": np.zeros((1, 8), np.float32)}]
    assert calibration.converged(path, inputs)[0] == 9
    ptq.int8(path, tmp_path / "q.onnx", inputs, "int8-extremes")
    assert {layer.label for layer in qdq.layers(onnx.load(tmp_path / "q.onnx"))} >= {"w", "v"}
    _, layers = candidates.proved(tmp_path / "q.onnx")
    assert layers.float_layers == {"v": "its input is not quantized, or not as a whole"}
    compared = 0
    for sample in inputs:
        a, b = (onnxruntime_cpu.session(file)(sample)["y"] for file in (path, tmp_path / "q.onnx"))
        if a.shape == b.shape:  # a value near zero may round to it
            compared += len(a) > 0
            assert np.abs(a - b).max(initial=0) <= 0.3 * np.abs(a).max(initial=0)
    assert compared >= 4


def test_depthwise_and_linear_convolutions_all_run_in_8_bits_and_tensorrt_takes_their_codes(tmp_path):
    """An inverted residual (MobileNetV2): a scale a channel, or codes of two types, would leave most of it in float."""
    torch.manual_seed(0)

    class Inverted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 16, 3, 2, 1)
            self.wide = torch.nn.Conv2d(16, 32, 1)
            self.depth = torch.nn.Conv2d(32, 32, 3, 1, 1, groups=32)
            self.linear = torch.nn.Conv2d(32, 16, 1)
            self.out = torch.nn.Conv2d(16, 16, 1)

        def forward(self, x):
            x = self.stem(x)
            return self.out(x + self.linear(torch.relu(self.depth(torch.relu(self.wide(x))))))

    random = np.random.default_rng(0)
    inputs = [{"x": random.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(8)]
    example = (torch.from_numpy(inputs[0]["x"]),)
    torch.onnx.export(
        Inverted().eval(),
        example,
        tmp_path / "m.onnx",
        input_names=["x"],
        output_names=["y"],
        dynamo=True,
        verbose=False,
    )
    ptq.int8(tmp_path / "m.onnx", tmp_path / "q.onnx", inputs, "int8")
    _, proof = candidates.proved(tmp_path / "q.onnx")
    assert proof.asked == 5 and set(proof.float_layers.values()) <= {"its output stays float"}
    assert proof.int8 >= 4
    assert precision.to_symmetric(tmp_path / "q.onnx", tmp_path / "s.onnx") > 0
    a, b = (onnxruntime_cpu.session(tmp_path / name, optimize=False)(inputs[0])["y"] for name in ("q.onnx", "s.onnx"))
    assert np.abs(a - b).max() < 0.05 * np.abs(a).max()
    precision.to_unsigned(tmp_path / "s.onnx", tmp_path / "q.onnx", tmp_path / "u.onnx")
    back = onnxruntime_cpu.session(tmp_path / "u.onnx", optimize=False)(inputs[0])["y"]
    assert np.abs(a - back).max() <= 1e-3 * np.abs(a).max()


def test_what_nncf_cannot_quantize_is_one_error_with_the_candidate(graphs, tmp_path):
    with pytest.raises(MmedgeError, match=r"NNCF cannot quantize this graph \(int8-percentile\)") as raised:
        ptq.int8(graphs[1], tmp_path / "q.onnx", [{"image": np.zeros((1, 2), np.float32)}], "int8-percentile")
    assert "quantize.candidates" in str(raised.value) and not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(
    "body",
    [
        # Patches, the one convolution of a ViT, stay in float.
        "p = Conv <kernel_shape = [2], strides = [2]> (x, w) n = LayerNormalization (p, g, g) y = MatMul (n, v)",
        "c = Conv <kernel_shape = [2], strides = [1]> (x, w) r = Relu (c) y = Conv <kernel_shape = [1]> (r, u)",
    ],
    ids=["no_convolution", "no_attention"],
)
def test_a_graph_without_both_convolutions_and_attention_has_no_hybrid(tmp_path, body):
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]> g (float[1, 2, 8] x) => (float[1, 3, k] y)
        <float[3, 2, 2] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}}, float[3, 3, 1] u = {{1, 2, 3, 4, 5, 6, 7, 8, 9}},
         float[4, 2] v = {{1, 2, 3, 4, 5, 6, 7, 8}}, float[4] g = {{1, 2, 3, 4}}>
        {{ {body} }}
    """)
    onnx.save(model, tmp_path / "m.onnx")
    assert not ptq.others(tmp_path / "m.onnx")
    with pytest.raises(MmedgeError, match="convolutions beside attention"):
        ptq.int8(tmp_path / "m.onnx", tmp_path / "q.onnx", [{"x": np.ones((1, 2, 8), np.float32)}] * 4, "int8-hybrid")


SILU = "s{0} = Sigmoid (c{0}) a{0} = Mul (c{0}, s{0})"
ACTIVATIONS = {"silu": SILU, "hardswish": "a{0} = HardSwish (c{0})", "leaky": "a{0} = LeakyRelu (c{0})"}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_convolutions_in_front_of_activations_that_are_not_folded_into_them_run_in_8_bits_apart(activation, tmp_path):
    """NNCF puts codes behind the activation alone, and ONNX Runtime then runs the convolution in float."""
    layers = [
        f"c{n} = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({'x' if n == 0 else f'a{n - 1}'}, w{n}, b{n}) "
        + ACTIVATIONS[activation].format(n)
        for n in range(3)
    ]
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[batch, 8, 12, 12] x) => (float[batch, 8, 12, 12] a2) {{ {" ".join(layers)} }}"""
    )
    random = np.random.default_rng(0)
    for n in range(3):
        for name, shape in ((f"w{n}", (8, 8, 3, 3)), (f"b{n}", (8,))):
            value = random.normal(0, 0.2, shape).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
    onnx.save(model, tmp_path / "m.onnx")
    inputs = [{"x": random.normal(size=(1, 8, 12, 12)).astype(np.float32)} for _ in range(16)]
    assert ptq.others(tmp_path / "m.onnx") == ["int8-apart"]
    in_codes = {}
    for variant in ("int8", "int8-apart"):
        ptq.int8(tmp_path / "m.onnx", tmp_path / "q.onnx", inputs[:12], variant)
        in_codes[variant] = precision.int8_kernels(precision.optimized(tmp_path / "q.onnx"))
        for session in (onnxruntime_cpu.session, openvino_cpu.session):
            expected, actual = (
                np.concatenate([run(each)["a2"].reshape(1, -1) for each in inputs[12:]])
                for run in (onnxruntime_cpu.session(tmp_path / "m.onnx"), session(tmp_path / "q.onnx"))
            )
            assert distance(expected, actual) < 5e-3
    assert in_codes["int8-apart"]["QLinearConv"] == 3 > in_codes["int8"].get("QLinearConv", 0)
    assert ("QLinearMul" in in_codes["int8-apart"]) == (activation == "silu")
