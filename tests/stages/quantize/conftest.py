"""The graphs of the finished run, and what they answer."""

import pytest

from mmedge.models.load import contract_of
from mmedge.stages.quantize import evaluation


@pytest.fixture
def graphs(finished):
    """(INT8 graph, FP32 graph) of the finished run."""
    return finished.out / "quantize" / "int8.onnx", finished.out / "quantize" / "fp32.onnx"


@pytest.fixture
def outputs(finished, context):
    made = finished.artifact("prune")
    made = evaluation.outputs_of(made.file("model.onnx"), contract_of(made), context.dataset.validation)
    return lambda graph: evaluation.joined(made(graph, True))
