"""The parent's graph with a cut network's sizes: the very graph that would be exported, or none."""

import numpy as np
import onnx
import pytest
from torch import nn

from mmedge.artifact import GRAPH
from mmedge.contract import Contract
from mmedge.graph.export import export
from mmedge.graph.narrowed import narrowed
from mmedge.measure.latency import one_sample
from mmedge.models.load import contract_of
from mmedge.recipe import Prune
from mmedge.spec import ArraySpec
from tests import conftest


def shape_of(graph):
    model = onnx.load(graph)
    sizes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return [(node.op_type, [sizes.get(name, name) for name in node.input]) for node in model.graph.node]


@pytest.mark.long
def test_it_has_the_nodes_and_sizes_of_the_export(finished, context, tmp_path):
    parent = finished.artifact("teacher")
    module, contract = context.rebuild(parent), contract_of(parent)
    conftest.narrowed(module, contract, Prune(round_to=2), 0.5)
    inputs = one_sample(context.dataset.validation, 2)
    assert narrowed(parent.file(GRAPH), module, inputs, tmp_path / "narrowed.onnx")
    export(module, contract, tmp_path / "exported.onnx")
    made = shape_of(tmp_path / "narrowed.onnx")
    assert made == shape_of(tmp_path / "exported.onnx") and made != shape_of(parent.file(GRAPH))


class Seen(nn.Module):
    """A width that stands in the graph as a number: of three heads, each a slice of it."""

    def __init__(self, width):
        super().__init__()
        self.width, self.first, self.last = width, nn.Linear(6, 3 * width), nn.Linear(width, 2)

    def forward(self, x, present):
        heads = self.first(x).view(-1, 3, self.width)
        return {"logits": self.last(heads.mean(1))}


def test_a_graph_that_holds_the_old_width_as_a_number_is_not_taken(tmp_path):
    spec = ArraySpec(kind="array", shape=(6,))
    contract = Contract(task="classification", labels=("a", "b"), modalities={"x": spec})
    export(Seen(8), contract, tmp_path / "parent.onnx")
    inputs = {"x": np.zeros((1, 6), np.float32), "present": np.ones((1, 1), bool)}
    assert not narrowed(tmp_path / "parent.onnx", Seen(4), inputs, tmp_path / "narrowed.onnx")
    assert not (tmp_path / "narrowed.onnx").exists()
