"""Graphs: what torch computes, for every subset and any batch; FP16, symmetric INT8 and what really runs in 8 bits."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from mmedge.backends import onnxruntime_cpu, tensorrt
from mmedge.backends.backend import Job
from mmedge.backends.engine import profiles_of
from mmedge.contract import Contract, subsets
from mmedge.errors import MismatchError, MmedgeError
from mmedge.graph import precision, weights
from mmedge.graph.export import export
from mmedge.models.load import contract_of
from mmedge.spec import ArraySpec
from mmedge.stages import trained
from tests.heads import samples as made_samples


@pytest.fixture(scope="module")
def quantized(finished):
    return finished.out / "quantize"


def inputs_of(contract, batch, subset=None):
    rng = np.random.default_rng(batch)
    names = list(contract.modalities)
    mask = np.array([subset is None or name in subset for name in names])
    tensors = {
        name: rng.normal(size=(batch, *spec.shape)).astype(np.float32) for name, spec in contract.modalities.items()
    }
    return {**tensors, "present": np.tile(mask, (batch, 1))}


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("stage", ["teacher", "distill", "prune"])
def test_the_graph_is_the_model_for_every_subset_and_batch(finished, context, stage, batch):
    made = finished.artifact(stage)
    contract, module, run = contract_of(made), context.rebuild(made), onnxruntime_cpu.session(made.file("model.onnx"))
    for subset in subsets(list(contract.modalities)):
        inputs = inputs_of(contract, batch, subset)
        with torch.no_grad():
            expected = module(**{name: torch.from_numpy(x) for name, x in inputs.items()})["logits"].numpy()
        np.testing.assert_allclose(run(inputs)["logits"], expected, rtol=1e-4, atol=1e-4)


def test_a_graph_has_named_inputs_a_boolean_present_a_dynamic_batch_and_no_stack_traces(finished):
    model = onnx.load(finished.out / "teacher" / "model.onnx")
    shapes = {value.name: value.type.tensor_type for value in model.graph.input}
    assert list(shapes) == ["image", "audio", "present"]
    assert shapes["present"].elem_type == onnx.TensorProto.BOOL
    assert len({shape.shape.dim[0].dim_param for shape in shapes.values()}) == 1
    assert all(shape.shape.dim[0].dim_param for shape in shapes.values())
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


SMALL = Contract(task="classification", modalities={"x": ArraySpec(kind="array", shape=(6,))}, labels=("a", "b", "c"))


class Noisy(nn.Module):
    """Answers otherwise at every call, in evaluation too."""

    def forward(self, x):
        return x + torch.rand(1)


class Changing(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.first, self.noise, self.last = nn.Linear(6, 4), Noisy(), nn.Linear(4, 3)
        self.between = between

    def forward(self, x, present):
        y = self.first(x)
        return {"logits": self.last(self.noise(y))} if not self.between else {"logits": self.last(y) + torch.rand(1)}


@pytest.mark.parametrize("between, said", [(False, r"first layer that differs: noise \(Noisy\)"), (True, "between")])
def test_a_graph_that_differs_from_its_module_names_the_first_layer(tmp_path, between, said):
    module = Changing(between).eval()
    export(module, SMALL, tmp_path / "model.onnx")
    x = {"x": np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)}
    samples = made_samples("test", tuple("abcde"), x, np.ones((5, 1), bool), np.zeros(5, np.int64), np.arange(5))
    with pytest.raises(MismatchError, match=said) as raised:
        trained.verify(module, tmp_path / "model.onnx", SMALL, samples)
    assert raised.value.exit_code == 5


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, present, x):
        return {"logits": self.layer(x.reshape(2, 6))}


class Branching(Frozen):
    def forward(self, present, x):
        return {"logits": self.layer(x) if float(x.sum()) > 0 else self.layer(-x)}


@pytest.mark.parametrize("module", [Frozen, Branching])
def test_a_frozen_batch_and_control_flow_by_value_are_refused_with_what_to_do(tmp_path, module):
    with pytest.raises(MmedgeError) as raised:
        export(module(), SMALL, tmp_path / "m.onnx")
    assert 2 <= len(str(raised.value).splitlines()) <= 3 and not (tmp_path / "m.onnx").exists()


def test_fp16_has_half_weights_float_inputs_and_nearly_the_same_answers(finished, quantized):
    contract = contract_of(finished.artifact("quantize"))
    half = onnx.load(quantized / "fp16.onnx")
    types = {tensor.data_type for tensor in half.graph.initializer if len(tensor.dims) > 1}
    assert types == {onnx.TensorProto.FLOAT16}
    assert [value.type.tensor_type.elem_type for value in half.graph.input] == [1, 1, onnx.TensorProto.BOOL]
    inputs = inputs_of(contract, 5)
    a, b = (onnxruntime_cpu.session(quantized / f"{name}.onnx")(inputs)["logits"] for name in ("fp32", "fp16"))
    assert a.dtype == b.dtype == np.float32 and 0 < np.abs(a - b).max() < 0.02 * max(1, np.abs(a).max())


def zero_points(path):
    model = onnx.load(path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [
        stored[node.input[2]]
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2
    ]


def test_symmetric_codes_are_int8_with_zero_point_0_and_tensorrt_takes_them(finished, quantized, tmp_path):
    contract = contract_of(finished.artifact("quantize"))
    assert any(zero.dtype == np.uint8 for zero in zero_points(quantized / "int8.onnx"))
    changed = precision.to_symmetric(quantized / "int8.onnx", tmp_path / "s.onnx")
    assert changed > 0
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zero_points(tmp_path / "s.onnx"))
    inputs = inputs_of(contract, 5)
    a, b = (
        onnxruntime_cpu.session(path, optimize=False)(inputs)["logits"]
        for path in (quantized / "int8.onnx", tmp_path / "s.onnx")
    )
    assert np.abs(a - b).max() < 0.1 * max(1, np.abs(a).max())
    pytest.importorskip("tensorrt_rtx")
    job = Job(tmp_path / "s.onnx", "engine", profiles_of(contract), tensorrt.Options(), precision="int8")
    built = tensorrt.build("tensorrt-rtx", job)
    assert (tmp_path / built.file).stat().st_size > 1000 and built.record()["weight_types"]["int8"] > 0


def test_a_range_that_is_not_symmetric_is_held_by_one_that_is(quantized, tmp_path):
    model = onnx.load(quantized / "int8.onnx")
    quantizer = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    stored[quantizer.input[2]].CopyFrom(numpy_helper.from_array(np.uint8(200), quantizer.input[2]))
    scale = float(numpy_helper.to_array(stored[quantizer.input[1]]))
    onnx.save(model, tmp_path / "m.onnx")
    precision.to_symmetric(tmp_path / "m.onnx", tmp_path / "s.onnx")
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "s.onnx").graph.initializer}
    assert after[quantizer.input[2]].dtype == np.int8 and not after[quantizer.input[2]].any()
    assert 127 * float(after[quantizer.input[1]]) == pytest.approx(200 * scale)  # code 0 was 200 steps below zero


def test_int8_kernels_are_counted_where_they_run_and_only_there(quantized):
    counts = precision.int8_kernels(precision.optimized(quantized / "int8.onnx"))
    assert sum(counts.values()) >= 2 and all(counts.values())
    assert precision.int8_kernels(precision.optimized(quantized / "fp32.onnx")) == {}


def test_weights_alone_in_int8_are_smaller_and_answer_nearly_the_same(finished, tmp_path):
    made = finished.artifact("teacher")
    assert weights.weights_only(made.file("model.onnx"), tmp_path / "w.onnx") > 4
    assert (tmp_path / "w.onnx").stat().st_size < 0.5 * made.file("model.onnx").stat().st_size
    inputs = inputs_of(contract_of(made), 5)
    a, b = (onnxruntime_cpu.session(path)(inputs)["logits"] for path in (made.file("model.onnx"), tmp_path / "w.onnx"))
    assert 0 < np.abs(a - b).max() < 0.05 * max(1, np.abs(a).max())


def test_an_engine_of_another_precision_than_asked_for_is_a_mismatch(finished, quantized, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    shutil.copy(quantized / "fp32.onnx", tmp_path / "m.onnx")
    contract = contract_of(finished.artifact("quantize"))
    job = Job(tmp_path / "m.onnx", "engine", profiles_of(contract), tensorrt.Options(), precision="int8")
    with pytest.raises(MismatchError, match="int8 was asked for") as raised:
        tensorrt.build("tensorrt-rtx", job)
    assert raised.value.exit_code == 5


def test_a_graph_that_no_runtime_takes_is_an_error_with_its_path(quantized, tmp_path):
    shutil.copyfile(quantized / "fp32.onnx", tmp_path / "cut.onnx")
    with (tmp_path / "cut.onnx").open("r+b") as stream:
        stream.truncate(500)
    with pytest.raises(MmedgeError, match=r"cut\.onnx"):
        onnxruntime_cpu.session(tmp_path / "cut.onnx")
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(MmedgeError, match=r"cut\.onnx"):
        tensorrt.build("tensorrt-rtx", Job(tmp_path / "cut.onnx", "e", {}, tensorrt.Options()))
