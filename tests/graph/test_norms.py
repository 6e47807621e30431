"""Layer norms that a graph spells out in nine nodes become one each, where they are such."""

import numpy as np
import onnx
import pytest

from mmedge.backends import onnxruntime_cpu
from mmedge.graph import foreign, norms

SPELLED = """
    mean = ReduceMean <axes = [-1], keepdims = 1> (h)
    centred = Sub (h, mean)
    {square}
    variance = ReduceMean <axes = [-1], keepdims = 1> (squared)
    shifted = Add (variance, epsilon)
    root = Sqrt (shifted)
    normed = Div (centred, root)
    scaled = Mul ({gained})
    y = Add (scaled, bias)"""
SQUARES = {"power": "squared = Pow (centred, two)", "product": "squared = Mul (centred, centred)"}


def graph(path, opset=13, square="power", gained="normed, gain", change=("", ""), inside=False):
    """``inside``: constants in nodes, the gain under a second name, as torch's older exporter writes them."""
    text = SPELLED.format(square=SQUARES[square], gained=gained).replace(*change)
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[batch, 4, 8] x) => (float[batch, 4, 8] y) {{ h = MatMul (x, w) {text} }}'
    )
    random = np.random.default_rng(0)
    stored = {"w": (8, 8), "gain": (8,), "bias": (8,), "two": 2.0, "epsilon": 1e-3}
    for name, shape in stored.items():
        value = np.float32(shape) if isinstance(shape, float) else random.normal(1, 0.5, shape).astype(np.float32)
        tensor = onnx.numpy_helper.from_array(np.asarray(value), name)
        if inside and isinstance(shape, float):
            model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], value=tensor))
        elif inside and name == "gain":
            tensor.name = "of_another"
            model.graph.initializer.append(tensor)
            model.graph.node.insert(0, onnx.helper.make_node("Identity", ["of_another"], [name]))
        else:
            model.graph.initializer.append(tensor)
    onnx.save(model, path)
    return path


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


X = {"x": np.random.default_rng(1).normal(size=(2, 4, 8)).astype(np.float32)}


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("gained", ["normed, gain", "gain, normed"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_norm_of_nine_nodes_is_one_that_answers_alike(square, gained, inside, tmp_path):
    source = graph(tmp_path / "m.onnx", square=square, gained=gained, inside=inside)
    notes = foreign.tidied(source, tmp_path / "t.onnx", X)
    assert kinds(tmp_path / "t.onnx") == ["MatMul", "LayerNormalization"]
    assert onnx.load(tmp_path / "t.onnx").opset_import[0].version == norms.OPSET
    assert any("1 layer norms that were spelled out are one node each" in note for note in notes)
    expected, actual = (onnxruntime_cpu.session(path)(X)["y"] for path in (source, tmp_path / "t.onnx"))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        ("mean = ReduceMean <axes = [-1]", "mean = ReduceMean <axes = [1]"),
        ("variance = ReduceMean <axes = [-1]", "variance = ReduceMean <axes = [1]"),
        ("Sub (h, mean)", "Sub (x, mean)"),
        ("Div (centred, root)", "Div (h, root)"),
        ("Pow (centred, two)", "Pow (centred, epsilon)"),
        ("Mul (normed, gain)", "Mul (normed, w)"),
    ],
    ids=lambda change: change[1],
)
def test_what_is_no_layer_norm_over_the_last_axis_stays_as_it_is(change, tmp_path):
    change = (change[0], change[1].replace("Mul (normed, w)", "Mul (normed, gain2)"))
    source = graph(tmp_path / "m.onnx", change=change)
    if "gain2" in change[1]:
        model = onnx.load(source)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 1), np.float32), "gain2"))
        onnx.save(model, source)
    foreign.tidied(source, tmp_path / "t.onnx", X)
    assert "LayerNormalization" not in kinds(tmp_path / "t.onnx")
