"""Ranges that a quantizer's statistics get wrong: where modalities share a scale, and of tensors of few values."""

import shutil

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmedge.backends import onnxruntime_cpu
from mmedge.graph import fusion
from mmedge.stages.quantize import mixed, ptq
from mmedge.stages.quantize.calibration import calibration_inputs
from tests.stages.quantize.scaled import scaled


def test_a_modality_whose_codes_a_shared_scale_wastes_gets_its_own(graphs, context, outputs, tmp_path):
    int8, fp32 = shutil.copy(graphs[0], tmp_path / "int8.onnx"), graphs[1]
    inputs = calibration_inputs(context.dataset.train, np.arange(24), 0)
    sound = {row.branch: row for row in fusion.keep_apart(int8, fp32, inputs)}
    assert set(sound) == {"image", "audio"} and not any(row.apart for row in sound.values())
    joined = [n.output[0] for n in onnx.load(fp32).graph.node if n.op_type == "Where"]
    wasted = scaled(int8, joined[0], 16.0, tmp_path / "wasted.onnx")  # as if the other modality were 16 times larger
    before = mixed.distance(outputs(fp32), outputs(wasted))
    rows = {row.branch: row for row in fusion.keep_apart(wasted, fp32, inputs)}
    assert rows["image"].apart and not rows["audio"].apart
    assert rows["image"].scale > 8 * rows["image"].own_scale and rows["image"].codes > 0.2
    assert mixed.distance(outputs(fp32), outputs(wasted)) < before


def test_a_table_of_two_numbers_is_quantized_by_all_their_values(tmp_path):
    """The mean of each sample's extremes is some 1.1 where the values go to 3."""
    random = np.random.default_rng(0)
    stored = {"w": random.standard_normal((2, 32)), "v": random.standard_normal((32, 4))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 2])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in stored.items()],
    )
    path, target = tmp_path / "x.onnx", tmp_path / "q.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    inputs = [{"x": random.standard_normal((1, 2)).astype(np.float32)} for _ in range(64)]
    ptq.int8(path, target, inputs, "int8")

    def error():
        runs = [onnxruntime_cpu.session(file, optimize=False) for file in (path, target)]
        exact, coded = ([run(sample)["y"] for sample in inputs] for run in runs)
        return mixed.distance(np.concatenate(exact), np.concatenate(coded))

    before = error()
    assert fusion.widen_few(target, path, inputs) == 2 and fusion.widen_few(target, path, inputs) == 0
    assert error() < 1e-3 < 0.02 < before


def test_tensors_that_are_never_above_0_have_codes_below_it_alone(tmp_path):
    """Their code of 0 is the last one, 255; the smaller scale leaves out half of what they are."""
    texts = {
        "float": "an = Neg (a) bn = Neg (b) j = Concat <axis = 1> (an, bn) y = MatMul (j, w)",
        "codes": """an = Neg (a) bn = Neg (b) aq = QuantizeLinear (an, s, z) ad = DequantizeLinear (aq, s, z)
                    bq = QuantizeLinear (bn, s, z) bd = DequantizeLinear (bq, s, z)
                    j = Concat <axis = 1> (ad, bd) y = MatMul (j, w)""",
    }
    for name, text in texts.items():
        model = onnx.parser.parse_model(f"""
            <ir_version: 8, opset_import: ["" : 18]>
            g (float[1, 2] a, float[1, 2] b) => (float[1, 1] y)
            <float[4, 1] w = {{1, 1, 1, 1}}, float s = {{0.01}}, uint8 z = {{255}}> {{ {text} }}
        """)
        for node in model.graph.node:
            node.name = node.output[0]
        onnx.save(model, tmp_path / f"{name}.onnx")
    files = tmp_path / "codes.onnx", tmp_path / "float.onnx"
    inputs = [{"a": np.float32([[5.1, 1]]), "b": np.float32([[1, 0.1]])}]
    assert fusion.widen_few(*files, inputs) == 1
    found = onnxruntime_cpu.session(files[0])(inputs[0])["y"]
    assert abs(found.item() + 7.2) < 0.02
    assert {row.branch: row.apart for row in fusion.keep_apart(*files, inputs)} == {"a": False, "b": True}
    assert abs(onnxruntime_cpu.session(files[0])(inputs[0])["y"].item() + 7.2) < 0.02
