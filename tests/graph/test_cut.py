"""Cutting graphs, and finding where two part."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from mmedge.backends import onnxruntime_cpu
from mmedge.backends.onnxfile import read_nodes
from mmedge.errors import MmedgeError
from mmedge.graph import cut
from mmedge.graph.bisect import first_difference
from mmedge.graph.export import export
from mmedge.graph.precision import to_fp16
from mmedge.models.heads import Wrapped
from tests.small import CONTRACT, write_graph


@pytest.fixture
def graph(tmp_path):
    write_graph(tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def given(batch=5):
    random = np.random.default_rng(3)
    return {
        "image": random.standard_normal((batch, 1, 8, 8)).astype(np.float32),
        "vitals": random.standard_normal((batch, 3)).astype(np.float32),
    }


@pytest.mark.parametrize("subset", [("image",), ("vitals",), ("image", "vitals")])
@pytest.mark.parametrize("batch", [1, 5])
def test_the_graph_of_a_subset_answers_as_the_whole_one(graph, tmp_path, subset, batch):
    cut.subset_graph(graph, CONTRACT, subset, tmp_path / "cut.onnx")
    whole, part, x = onnxruntime_cpu.session(graph), onnxruntime_cpu.session(tmp_path / "cut.onnx"), given(batch)
    present = np.tile([name in subset for name in x], (batch, 1))
    expected = whole({**x, "present": present})["logits"]
    assert set(part.inputs) == set(subset)
    np.testing.assert_allclose(part({name: x[name] for name in subset})["logits"], expected, atol=1e-6)


def test_an_absent_encoder_is_left_out(graph, tmp_path):
    cut.subset_graph(graph, CONTRACT, ["vitals"], tmp_path / "cut.onnx")
    kinds = [node.kind for node in read_nodes(tmp_path / "cut.onnx")]
    assert "Conv" not in kinds and "Where" not in kinds
    assert (tmp_path / "cut.onnx").stat().st_size < graph.stat().st_size / 2


class Own(nn.Module):
    """A network as users write them: no Where; features times presence, or no presence at all."""

    def __init__(self):
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8))
        self.feel = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8))
        self.first = nn.Parameter(torch.randn(1, 4))  # as a transformer's class token is: repeated to the batch
        self.head = nn.Linear(20, 3)

    def seen(self, image):
        return torch.cat([self.first.expand(image.shape[0], -1), self.look(image)], 1).relu()

    def forward(self, image, vitals):
        return self.head(torch.cat([self.seen(image), self.feel(vitals)], 1))


class Masked(Own):
    def forward(self, image, vitals, present):
        shown = present.to(image.dtype)
        return self.head(torch.cat([self.seen(image) * shown[:, :1], self.feel(vitals) * shown[:, 1:]], 1))


@pytest.fixture(scope="module", params=[Own, Masked])
def own_graph(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    means = {name: torch.rand(*spec.shape) for name, spec in CONTRACT.modalities.items()}
    wrapped = Wrapped(request.param(), {name: name for name in means}, means, {"logits": None})
    export(wrapped, CONTRACT, folder / "model.onnx")
    return folder / "model.onnx"


def test_an_absent_encoder_of_a_users_own_network_is_left_out(own_graph, tmp_path):
    whole, x = onnxruntime_cpu.session(own_graph), given()
    for kept, gone in (("image", "LayerNormalization"), ("vitals", "Conv")):
        cut.subset_graph(own_graph, CONTRACT, [kept], tmp_path / "cut.onnx")
        assert gone not in [node.kind for node in read_nodes(tmp_path / "cut.onnx")]
        present = np.tile([name == kept for name in x], (5, 1))
        answered = onnxruntime_cpu.session(tmp_path / "cut.onnx")({kept: x[kept]})["logits"]
        np.testing.assert_allclose(answered, whole({**x, "present": present})["logits"], atol=1e-6)


def test_encoders_and_head_together_are_the_whole_graph(graph, tmp_path):
    assert parts_are_the_whole(graph, tmp_path) == {"image": ["image_f"], "vitals": ["vitals_f"]}


def test_a_users_own_network_is_split_after_its_encoders(own_graph, tmp_path):
    own = parts_are_the_whole(own_graph, tmp_path)
    assert {name: len(tensors) for name, tensors in own.items()} == {"image": 1, "vitals": 1}
    kinds = [node.kind for node in read_nodes(tmp_path / "parts/fusion.onnx")]
    assert not {"Conv", "LayerNormalization"} & set(kinds)


def parts_are_the_whole(graph, tmp_path, atol=1e-6):
    own = cut.split_graph(graph, CONTRACT, tmp_path / "parts")
    x, present = given(), np.array([[True, True], [True, False], [False, True], [True, True], [False, False]])
    embedded: dict[str, np.ndarray] = {"present": present}
    for name in own:
        embedded |= onnxruntime_cpu.session(tmp_path / "parts" / f"{name}.onnx")({name: x[name]})
    head = onnxruntime_cpu.session(tmp_path / "parts/fusion.onnx")
    expected = onnxruntime_cpu.session(graph)({**x, "present": present})["logits"]
    np.testing.assert_allclose(head(embedded)["logits"], expected, atol=atol)
    return own


class Recurrent(Own):
    """Its first state is zeros of the batch's size, which the exporter takes from any input."""

    def __init__(self):
        super().__init__()
        self.feel = nn.GRU(1, 8, batch_first=True)

    def forward(self, image, vitals):
        return self.head(torch.cat([self.seen(image), self.feel(vitals.unsqueeze(2))[0][:, -1]], 1))


@pytest.mark.long
def test_a_recurrent_encoder_is_split_in_fp16_too_where_the_batch_is_asked_of_a_converted_input(tmp_path):
    means = {name: torch.rand(*spec.shape) for name, spec in CONTRACT.modalities.items()}
    wrapped = Wrapped(Recurrent(), {name: name for name in means}, means, {"logits": None})
    export(wrapped, CONTRACT, tmp_path / "fp32.onnx")
    model = onnx.load(tmp_path / "fp32.onnx")
    next(node for node in model.graph.node if node.op_type == "Shape").input[0] = "image"  # as it does where it pleases
    onnx.save(model, tmp_path / "fp32.onnx")
    to_fp16(tmp_path / "fp32.onnx", tmp_path / "model.onnx")
    own = parts_are_the_whole(tmp_path / "model.onnx", tmp_path, atol=1e-2)
    assert {name: len(tensors) for name, tensors in own.items()} == {"image": 1, "vitals": 1}


def test_a_graph_whose_inputs_meet_at_once_cannot_be_split(tmp_path):
    from onnx import TensorProto, helper

    ab = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("image", "vitals")]
    ab.append(helper.make_tensor_value_info("present", TensorProto.BOOL, ["batch", 2]))
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    nodes = [helper.make_node("Add", ["image", "vitals"], ["logits"], "add")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ab, [out]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(MmedgeError, match="image has no encoder of its own"):
        cut.split_graph(tmp_path / "model.onnx", CONTRACT, tmp_path / "parts")


@pytest.mark.parametrize(
    ("weight", "node"),
    [("conv", "conv_1"), ("conv2", "conv_2"), ("vitals_w", "vitals_linear"), ("bias", "head_linear")],
)
def test_the_first_node_that_differs_is_named(graph, tmp_path, weight, node):
    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        if tensor.name == weight:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), weight))
    onnx.save(model, tmp_path / "other.onnx")
    x = {**given(1), "present": np.ones((1, 2), bool)}
    found = first_difference(graph, tmp_path / "other.onnx", x, tolerance=1e-4)
    assert found is not None and found.node == node and node in str(found)
    assert first_difference(graph, graph, x, tolerance=1e-4) is None
