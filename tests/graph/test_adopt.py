"""A foreign ONNX model becomes a graph that keeps the contract, or is refused with a reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge.backends import onnxruntime_cpu
from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError
from mmedge.graph.adopt import adopt, check_width
from mmedge.graph.counts import count
from mmedge.graph.foreign import to_opset
from mmedge.spec import ArraySpec, TextSpec

CONTRACT = Contract(
    task="classification",
    labels=("a", "b"),
    modalities={"left": ArraySpec(kind="array", shape=(3,)), "right": ArraySpec(kind="array", shape=(2,))},
)
MEANS = {"left": np.array([1, 2, 3], np.float32), "right": np.array([4, 5], np.float32)}
NAMES = {"left": "l", "right": "r"}
WEIGHT = np.arange(10, dtype=np.float32).reshape(5, 2)


@pytest.fixture
def foreign(tmp_path):
    """scores = concat(l, r) @ WEIGHT, written by hand."""

    def write(batch="n", inputs=("l", "r")):
        shapes = dict(zip(("l", "r"), ([batch, 3], [batch, 2])))
        graph = helper.make_graph(
            [
                helper.make_node("Concat", ["l", "r"], ["both"], axis=1),
                helper.make_node("MatMul", ["both", "w"], ["scores"]),
            ],
            "foreign",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in inputs],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 2])],
            [numpy_helper.from_array(WEIGHT, "w")],
        )
        path = tmp_path / "foreign.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
        return path

    return write


def test_present_inputs_pass_and_absent_ones_become_the_training_mean(foreign, tmp_path):
    adopt(foreign(), CONTRACT, NAMES, MEANS, tmp_path / "adopted.onnx")
    left, right = np.ones((3, 3), np.float32), np.full((3, 2), 2, np.float32)
    present = np.array([[True, True], [True, False], [False, True]])
    run = onnxruntime_cpu.session(tmp_path / "adopted.onnx")
    scores = run({"left": left, "right": right, "present": present})["logits"]
    filled_left = np.where(present[:, :1], left, MEANS["left"])
    filled_right = np.where(present[:, 1:], right, MEANS["right"])
    np.testing.assert_allclose(scores, np.concatenate([filled_left, filled_right], 1) @ WEIGHT, rtol=1e-6)


def test_a_graph_is_converted_to_another_opset_or_it_is_told_why_not(foreign, tmp_path):
    graph = tmp_path / "adopted.onnx"
    adopt(foreign(), CONTRACT, NAMES, MEANS, graph)
    example = {
        "left": np.ones((3, 3), np.float32),
        "right": np.ones((3, 2), np.float32),
        "present": np.ones((3, 2), bool),
    }
    before = onnxruntime_cpu.session(graph)(example)["logits"]
    assert to_opset(graph, 21, example) == ["converted from opset 18 to 21; the answers are the same"]
    assert onnx.load(graph).opset_import[0].version == 21 and to_opset(graph, 21, example) == []
    np.testing.assert_array_equal(onnxruntime_cpu.session(graph)(example)["logits"], before)
    model = onnx.load(graph)
    model.graph.node[-1].op_type = "Gelu"  # there from opset 20 on
    onnx.save(model, graph)
    with pytest.raises(UsageError, match="is of opset 21, and cannot be converted to 18") as caught:
        to_opset(graph, 18, example)
    assert "export.opset" in str(caught.value)


def test_parameters_and_multiplications_are_counted(foreign):
    assert count(foreign()) == (10, 10)


def test_an_unknown_input_is_told_with_what_there_is(foreign, tmp_path):
    with pytest.raises(UsageError, match="no input 'left'.*it has l, r"):
        adopt(foreign(), CONTRACT, {"right": "r"}, MEANS, tmp_path / "x.onnx")


@pytest.mark.parametrize("kind", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_a_graph_that_draws_by_chance_is_refused(foreign, tmp_path, kind):
    """As one is that was exported in training mode: what it teaches is noise. A seed, since so few bits may come twice."""
    graph, model = tmp_path / "adopted.onnx", onnx.load(foreign())
    adopt(foreign(), CONTRACT, NAMES, MEANS, graph)
    check_width(graph, CONTRACT, tmp_path / "theirs.onnx", "teacher")
    model.graph.node.insert(1, helper.make_node("Sigmoid", ["both"], ["share"]))
    model.graph.node.insert(2, helper.make_node(kind, ["share"], ["shaken"], seed=1.0))
    model.graph.node[3].input[0] = "shaken"
    onnx.save(model, tmp_path / "theirs.onnx")
    adopt(tmp_path / "theirs.onnx", CONTRACT, NAMES, MEANS, graph)
    with pytest.raises(UsageError, match=r"draws by chance[\s\S]*theirs.onnx[\s\S]*model.eval"):
        check_width(graph, CONTRACT, tmp_path / "theirs.onnx", "teacher")


def test_a_fixed_batch_is_refused(foreign, tmp_path):
    with pytest.raises(UsageError, match="fixed to 1"):
        adopt(foreign(batch=1), CONTRACT, NAMES, MEANS, tmp_path / "x.onnx")


def test_another_shape_is_refused(foreign, tmp_path):
    wide = CONTRACT.model_copy(
        update={"modalities": {**CONTRACT.modalities, "left": ArraySpec(kind="array", shape=(4,))}}
    )
    with pytest.raises(UsageError, match="has shape"):
        adopt(foreign(), wide, NAMES, MEANS, tmp_path / "x.onnx")


def test_an_input_that_no_modality_gives_is_refused(foreign, tmp_path):
    with pytest.raises(UsageError, match="also wants r"):
        adopt(foreign(), CONTRACT.only(["left"]), NAMES, MEANS, tmp_path / "x.onnx")


def test_a_file_that_is_no_onnx_model_is_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(MmedgeError, match="cannot be read"):
        adopt(tmp_path / "bad.onnx", CONTRACT, NAMES, MEANS, tmp_path / "x.onnx")


@pytest.mark.parametrize("own_presence", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_a_picture_with_channels_last_is_transposed_and_another_type_is_cast(tmp_path, own_presence, kind):
    """What TensorFlow's models take: [batch, height, width, channels]."""
    contract = Contract(
        task="classification",
        labels=("a", "b"),
        modalities={"see": ArraySpec(kind="array", shape=(2, 3, 4)), "read": TextSpec(kind="text", length=5, pad=1)},
    )
    inputs = [
        helper.make_tensor_value_info("pixels", kind, ["n", 3, 4, 2]),
        helper.make_tensor_value_info("tokens", TensorProto.INT32, ["n", None]),
    ]
    presence = helper.make_tensor_value_info("present", TensorProto.BOOL, ["n", 2])
    weight = numpy_helper.from_array(np.arange(58, dtype=np.float32).reshape(29, 2), "w")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["p"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["tokens"], ["t"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["p"], ["flat"]),
        helper.make_node("Concat", ["flat", "t"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "w"], ["scores"]),
    ]
    output = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])]
    graph = helper.make_graph(nodes, "g", inputs + [presence] * own_presence, output, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    means = {"see": np.ones((2, 3, 4), np.float32), "read": np.full(5, 2.6, np.float32)}
    adopt(tmp_path / "m.onnx", contract, {"see": "pixels", "read": "tokens"}, means, tmp_path / "a.onnx")
    see, read = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4), np.arange(10).reshape(2, 5)
    present = np.array([[True, True], [False, False]]) | own_presence
    said = onnxruntime_cpu.session(tmp_path / "a.onnx")({"see": see, "read": read, "present": present})["logits"]
    if not own_presence:
        see[1], read[1] = 1, [0, 1, 1, 1, 1]  # the mean; one token that is no padding, and padding
    flat = np.concatenate([see.transpose(0, 2, 3, 1).reshape(2, -1), read], 1)
    np.testing.assert_allclose(said, flat @ numpy_helper.to_array(weight), rtol=1e-5)


@pytest.mark.parametrize(
    "shape, dims",
    [
        ((1, 4, 6), ["n", 4, 6]),
        ((1, 4, 6), ["n", 6, 4]),
        ((1, 4, 6), ["n", 4, 6, 1]),
        ((24,), ["n", 1, 24]),
        ((24,), ["n", 24, 1]),
    ],
)
def test_an_axis_of_one_comes_and_goes_as_the_model_has_it(shape, dims, tmp_path):
    """Log-mel without its axis of one, as Whisper takes it, also with the frames first; a waveform with one."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["scores"]),
        ],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.arange(48, dtype=np.float32).reshape(24, 2), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "f.onnx")
    contract = Contract(
        task="classification", labels=("a", "b"), modalities={"x": ArraySpec(kind="array", shape=shape)}
    )
    means = {"x": np.full(shape, 0.5, np.float32)}
    notes = adopt(tmp_path / "f.onnx", contract, {}, means, tmp_path / "adopted.onnx")
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    seen = np.where(np.array([True, False, True]).reshape(-1, *[1] * len(shape)), x, np.float32(0.5))
    turned = seen.reshape(3, 4, 6).swapaxes(1, 2) if dims[1:] == [6, 4] else seen
    present = np.array([[True], [False], [True]])
    answers = onnxruntime_cpu.session(tmp_path / "adopted.onnx")({"x": x, "present": present})["logits"]
    expected = turned.reshape(3, 24) @ np.arange(48, dtype=np.float32).reshape(24, 2)
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-3)
    assert bool(notes) == (dims[1:] != [4, 6, 1])
