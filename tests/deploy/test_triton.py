"""The Triton repository, read by Triton's own protobuf."""

import importlib.util
import shutil
from pathlib import Path

import onnx
import pytest

from mmedge import artifact
from mmedge import bundle as bundles
from mmedge.contract import Contract
from mmedge.errors import UsageError

SCRIPT = Path(__file__).parents[2] / "deploy/triton/repository.py"


@pytest.fixture(scope="module")
def repository():
    spec = importlib.util.spec_from_file_location("repository", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_config_is_one_that_triton_reads(repository, made_bundle, tmp_path):
    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    folder = repository.write(made_bundle, tmp_path)
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.name == folder.name == "small" and config.backend == "onnxruntime" and config.max_batch_size == 8
    assert [(one.name, list(one.dims)) for one in config.input] == [
        ("image", [1, 8, 8]),
        ("vitals", [3]),
        ("present", [2]),
    ]
    assert config.input[2].data_type == model_config_pb2.TYPE_BOOL
    assert [(one.name, list(one.dims)) for one in config.output] == [("logits", [3])]
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert (folder / "1/model.onnx").read_bytes() == (made_bundle / "model.onnx").read_bytes()


def test_every_output_of_the_graph_is_in_the_config(repository, made_bundle, tmp_path):
    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    graph = onnx.load(made_bundle / "model.onnx")
    graph.graph.node.append(onnx.helper.make_node("ArgMax", ["logits"], ["top"], "top", axis=1, keepdims=0))
    for name, kind, shape in (("image_e", onnx.TensorProto.FLOAT, ["b", 8]), ("top", onnx.TensorProto.INT64, ["b"])):
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    bundle = tmp_path / "bundle"
    with artifact.creating(bundle, stage="bundle", key="k", parent=None) as (folder, meta):
        onnx.save(graph, folder / "model.onnx")
        meta |= {**artifact.read(made_bundle).meta, "targets": {"onnxruntime-cpu": {"precision": "fp32"}}}
    text = (repository.write(bundle, tmp_path / "out") / "config.pbtxt").read_text()
    outputs = text_format.Parse(text, model_config_pb2.ModelConfig()).output
    assert [(one.name, list(one.dims)) for one in outputs] == [("logits", [3]), ("image_e", [8]), ("top", [1])]
    assert outputs[2].data_type == model_config_pb2.TYPE_INT64 and outputs[2].HasField("reshape")


def test_a_model_that_is_there_already_is_not_overwritten(repository, made_bundle, tmp_path):
    repository.write(made_bundle, tmp_path)
    with pytest.raises(UsageError, match="in the repository already"):
        repository.write(made_bundle, tmp_path)
    assert bundles.read(made_bundle)


def test_a_bundles_name_cannot_lead_out_of_the_repository(repository, made_bundle, tmp_path):
    shutil.copytree(made_bundle, tmp_path / "bundle")
    with bundles.rewriting(bundles.read(tmp_path / "bundle").artifact) as (_, meta):
        meta["name"] = "../../out of/here"
    folder = repository.write(tmp_path / "bundle", tmp_path / "models")
    assert folder == tmp_path / "models/out-of-here" and 'name: "out-of-here"' in (folder / "config.pbtxt").read_text()


def test_texts_are_integers_and_a_declared_dynamic_length_is_one(repository):
    text = {"kind": "text", "length": 16}
    modalities = {"title": text, "note": {**text, "min_length": 2}}
    contract = Contract.model_validate({"task": "regression", "modalities": modalities})
    text = repository.config("texts", contract)
    assert '{ name: "title" data_type: TYPE_INT64 dims: [ 16 ] }' in text
    assert '{ name: "note" data_type: TYPE_INT64 dims: [ -1 ] }' in text
