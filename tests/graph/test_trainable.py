"""A Q/DQ graph as a module: it computes what ONNX Runtime does, learns, and writes the same nodes back."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from mmedge.backends import onnxruntime_cpu
from mmedge.errors import MmedgeError
from mmedge.graph.precision import to_symmetric
from mmedge.graph.trainable import TrainableGraph, fake_quantize
from mmedge.measure.quality import predict_graph, predict_module
from mmedge.models.load import contract_of


@pytest.fixture(scope="module")
def quantized(finished, tmp_path_factory):
    """The finished run's INT8 graph with symmetric codes, as TensorRT takes them."""
    path = tmp_path_factory.mktemp("qdq") / "symmetric.onnx"
    to_symmetric(finished.artifact("quantize").file("int8.onnx"), path)
    return path


@pytest.mark.parametrize("which", ["fp32", "int8", "symmetric"])
def test_the_module_computes_what_onnx_runtime_does(which, finished, quantized, dataset):
    made = finished.artifact("quantize")
    contract, validation = contract_of(made), dataset.validation
    graph = quantized if which == "symmetric" else made.file(f"{which}.onnx")
    expected = predict_graph(onnxruntime_cpu.session(graph, optimize=False), contract, validation, validation.present)[
        "logits"
    ]
    actual = predict_module(TrainableGraph(graph), contract, validation, validation.present)["logits"]
    # A sum that lies between two codes may round either way: few samples, and by few codes.
    assert (
        np.median(np.abs(expected - actual)) < 1e-5 and np.abs(expected - actual).max() < 0.05 * np.abs(expected).max()
    )


def test_an_untrained_graph_is_written_back_as_it_was(quantized, tmp_path):
    TrainableGraph(quantized).write(tmp_path / "back.onnx")
    old, new = onnx.load(quantized).graph, onnx.load(tmp_path / "back.onnx").graph
    assert list(old.node) == list(new.node)
    for before, after in zip(old.initializer, new.initializer, strict=True):
        assert before.name == after.name
        assert np.array_equal(numpy_helper.to_array(before), numpy_helper.to_array(after))


def test_what_was_trained_is_what_is_written(quantized, finished, dataset, tmp_path):
    contract, validation = contract_of(finished.artifact("quantize")), dataset.validation
    module = TrainableGraph(quantized)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    module.write(tmp_path / "trained.onnx")
    again = TrainableGraph(tmp_path / "trained.onnx")
    before = predict_module(TrainableGraph(quantized), contract, validation, validation.present)["logits"]
    expected, actual = (
        predict_module(each, contract, validation, validation.present)["logits"] for each in (module, again)
    )
    assert np.abs(expected - actual).max() < 0.05 * np.abs(expected).max() < np.abs(before - actual).max() * 10
    for old, new in zip(onnx.load(quantized).graph.initializer, onnx.load(tmp_path / "trained.onnx").graph.initializer):
        assert (old.name, old.data_type, old.dims) == (new.name, new.data_type, new.dims)


def test_weights_that_were_kept_to_7_bits_stay_so(quantized, tmp_path):
    def widest(path):
        codes = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.data_type == 3]
        return [int(np.abs(x.astype(int)).max()) for x in codes if x.ndim > 1]

    module = TrainableGraph(quantized)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 4.0
    module.write(tmp_path / "wide.onnx")
    before, after = widest(quantized), widest(tmp_path / "wide.onnx")
    assert [x <= 64 for x in before] == [x <= 64 for x in after] and any(x <= 64 for x in before)


def test_a_gradient_reaches_what_is_inside_the_range_and_the_scale():
    """By hand from LSQ: inside, the scale's is round(x/s) - x/s; outside, the bound; and x gets none there."""
    x = torch.tensor([0.26, -0.9, 40.0], requires_grad=True)
    scale = torch.tensor(0.25, requires_grad=True)
    y = fake_quantize(x, scale, -127, 127)
    assert torch.allclose(y, torch.tensor([0.25, -1.0, 31.75]))
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 0.0]
    assert float(scale.grad) == pytest.approx((1 - 1.04) + (-4 + 3.6) + 127, abs=1e-5)


def test_all_that_a_graph_computes_with_goes_to_a_device_with_it_and_none_of_it_at_every_call(
    quantized, tmp_path, monkeypatch
):
    """Where no GPU is, torch's "meta" device, which has shapes and no values, stands for another device than the CPU's."""
    module = TrainableGraph(quantized)
    scales = {node.input[1] for node in onnx.load(quantized).graph.node if node.op_type == "QuantizeLinear"}
    monkeypatch.setattr(torch, "from_numpy", None)  # values that come from the host
    assert scales and all(module._scale(name).isfinite().all() for name in scales)
    monkeypatch.undo()

    constant = numpy_helper.from_array(np.ones((2, 3), np.float32), "c")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("Add", ["x", "c"], ["sum"]),
        helper.make_node("Shape", ["sum"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", 1, [2, 3])], [value("sum", 1, None), value("y", 7, None), value("c", 1, None)]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "g.onnx")
    there = TrainableGraph(tmp_path / "g.onnx").to("meta")(x=torch.ones(2, 3, device="meta"))
    assert {name: value.device.type for name, value in there.items()} == dict.fromkeys(("sum", "y", "c"), "meta")


def test_formulas_own_constants_are_no_parameters(finished):
    learned = TrainableGraph(finished.artifact("quantize").file("fp32.onnx")).learned
    assert all(parameter.numel() > 1 for parameter in learned.values())


def one_node(node, path, *stored):
    value = helper.make_tensor_value_info
    graph = helper.make_graph([node], "g", [value("x", 1, [2, 3])], [value("y", 1, None)], list(stored))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)


def test_an_operator_that_cannot_be_trained_is_named(tmp_path):
    one_node(helper.make_node("NonZero", ["x"], ["y"]), tmp_path / "g.onnx")
    with pytest.raises(MmedgeError, match="a graph with NonZero cannot be trained"):
        TrainableGraph(tmp_path / "g.onnx")


def test_an_operator_that_is_used_in_a_way_that_cannot_be_trained_is_named_too(tmp_path):
    """The stage leaves such a candidate out: it knows MmedgeError alone."""
    pads = numpy_helper.from_array(np.array([0, 1, 0, 1]), "pads")
    one_node(helper.make_node("Pad", ["x", "pads"], ["y"], mode="wrap"), tmp_path / "g.onnx", pads)
    with pytest.raises(MmedgeError, match="a graph with Pad that wraps, or with axes cannot be trained") as raised:
        TrainableGraph(tmp_path / "g.onnx")(x=torch.zeros(2, 3))
    assert type(raised.value) is MmedgeError


def test_a_zero_point_other_than_0_is_refused(tmp_path):
    stored = (
        numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        numpy_helper.from_array(np.array(7, np.uint8), "z"),
    )
    one_node(helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], name="q"), tmp_path / "g.onnx", *stored)
    with pytest.raises(MmedgeError, match="zero point 0") as raised:
        TrainableGraph(tmp_path / "g.onnx")
    assert "'q'" in str(raised.value)


def test_weights_of_which_two_of_four_are_zero_keep_their_zeros(tmp_path):
    text = """<ir_version: 9, opset_import: ["" : 20]>
    graph (float[1, 8] x) => (float[1, 4] y) {
      d = DequantizeLinear<axis = 0> (w, s, z)
      y = Gemm<transB = 1> (x, d)
    }"""
    model = onnx.parser.parse_model(text)
    codes = np.random.default_rng(0).integers(60, 120, (4, 8)).astype(np.int8)
    codes[:, 1::2] = 0
    stored = {"w": codes, "s": np.full(4, 0.01, np.float32), "z": np.zeros(4, np.int8)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
    onnx.save(model, tmp_path / "m.onnx")
    module = TrainableGraph(tmp_path / "m.onnx")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05
    module.write(tmp_path / "t.onnx")
    (after,) = [each for each in onnx.load(tmp_path / "t.onnx").graph.initializer if each.name == "w"]
    after = numpy_helper.to_array(after)
    assert not after[:, 1::2].any() and (after[:, ::2] != codes[:, ::2]).any()
