"""Quantized layers: found, named, taken back to float, and proved against what the runtime made of them."""

import numpy as np
import onnx
import pytest

from mmedge.backends import onnxruntime_cpu, tensorrt
from mmedge.backends.backend import Job
from mmedge.backends.engine import profiles_of
from mmedge.errors import MismatchError, UsageError
from mmedge.graph import precision, qdq
from mmedge.graph.prepared import Prepared
from mmedge.models.load import contract_of
from mmedge.stages.export import engines
from mmedge.stages.quantize import ptq


@pytest.fixture(scope="module")
def models(finished, dataset, tmp_path_factory):
    """(Q/DQ model, the FP32 model that it is made of) of the finished run's cut student."""
    fp32, target = finished.out / "quantize" / "fp32.onnx", tmp_path_factory.mktemp("int8") / "int8.onnx"
    names = tuple(contract_of(finished.artifact("prune")).modalities)
    inputs = [
        {name: np.array(dataset.train.inputs[name][row : row + 1]) for name in names}
        | {"present": np.ones((1, len(names)), bool)}
        for row in range(8)
    ]
    ptq.int8(Prepared(fp32, attention=False), target, inputs)
    return onnx.load(target), onnx.load(fp32)


@pytest.fixture
def answers(finished, context):
    names = tuple(contract_of(finished.artifact("prune")).modalities)
    inputs = {name: np.array(context.dataset.test.inputs[name][:8]) for name in names}
    inputs["present"] = np.array([[True, True], [True, False], [False, True], [True, True]] * 2)
    return lambda model: onnxruntime_cpu.session(model.SerializeToString(), optimize=False)(inputs)["logits"]


def test_layers_have_the_place_in_the_model_and_the_branch_that_people_know(models):
    layers = {layer.label: layer for layer in qdq.layers(models[0])}
    assert layers["encoders.image.features.0"].branch == "image" and layers["encoders.image.features.0"].kind == "Conv"
    assert layers["encoders.audio.project.2"].branch == "audio" and layers["fusion.0"].branch == "fusion"
    assert all(layer.weights > 0 for layer in layers.values())
    assert qdq.layers(models[1]) == []


def test_all_layers_taken_back_are_the_fp32_graph_again_to_the_bit(models, answers):
    quantized, fp32 = models
    back = qdq.restored(quantized, fp32, [layer.name for layer in qdq.layers(quantized)])
    assert not {node.op_type for node in back.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert np.abs(answers(quantized) - answers(fp32)).max() > 0
    np.testing.assert_array_equal(answers(back), answers(fp32))


def test_a_layer_taken_back_costs_its_neighbours_no_8_bit_kernel(models, tmp_path):
    quantized, fp32 = models
    layers = qdq.layers(quantized)
    onnx.save(quantized, tmp_path / "all.onnx")
    whole = qdq.prove(tmp_path / "all.onnx", precision.optimized(tmp_path / "all.onnx"))
    for layer in layers:
        onnx.save(qdq.restored(quantized, fp32, [layer.name]), tmp_path / "part.onnx")
        proof = qdq.prove(tmp_path / "part.onnx", precision.optimized(tmp_path / "part.onnx"))
        assert proof.asked == whole.asked - 1 and not proof.unexplained
        assert proof.int8 == whole.int8 - (layer.label not in whole.float_layers)


def test_tensorrt_builds_in_int8_just_the_layers_that_are_left(models, finished, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    quantized, fp32 = models
    audio = [layer.name for layer in qdq.layers(quantized) if layer.branch == "audio"]
    onnx.save(qdq.restored(quantized, fp32, audio), tmp_path / "part.onnx")
    precision.to_symmetric(tmp_path / "part.onnx", tmp_path / "symmetric.onnx")
    profiles = profiles_of(contract_of(finished.artifact("prune")))
    built = tensorrt.build("tensorrt-rtx", Job(tmp_path / "symmetric.onnx", "engine", profiles, tensorrt.Options()))
    assert sorted(built.int8_layers) == sorted({layer.name for layer in qdq.layers(quantized)} - set(audio))
    with pytest.raises(
        MismatchError, match=rf"{len(audio)} of .* layers that the graph has in INT8 are float"
    ) as raised:
        engines.check_int8_layers(finished.out / "quantize" / "int8.onnx", built.int8_layers, "tensorrt-rtx")
    assert raised.value.exit_code == 5


def test_a_runtime_that_fuses_nothing_is_seen(models, tmp_path):
    onnx.save(models[0], tmp_path / "q.onnx")
    proof = qdq.prove(tmp_path / "q.onnx", models[0])
    assert proof.int8 == 0 and "encoders.image.features.0" in proof.unexplained
    assert "head.1" not in proof.unexplained and "output stays float" in proof.float_layers["head.1"]


def test_layers_are_named_by_label_part_of_it_branch_or_node(models):
    layers = qdq.layers(models[0])
    of_audio = [layer.name for layer in layers if layer.branch == "audio"]
    assert qdq.named(["encoders.audio"], layers, where="x") == of_audio == qdq.named(["audio"], layers, where="x")
    assert qdq.named([layers[0].name], layers, where="x") == [layers[0].name]
    with pytest.raises(UsageError, match=r"no quantized layer 'fusoin\.0'; close ones are fusion\.0"):
        qdq.named(["fusoin.0"], layers, where="x")
