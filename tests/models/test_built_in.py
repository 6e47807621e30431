"""Networks of every encoder and fusion: exported as torch computes them, pruned, in INT8, and built by TensorRT."""

from typing import get_args

import pytest
import torch

from mmedge.backends import tensorrt
from mmedge.backends.backend import Job
from mmedge.backends.engine import profiles_of
from mmedge.contract import Contract
from mmedge.graph.export import export
from mmedge.graph.trace import noise
from mmedge.measure.cost import params
from mmedge.models import load
from mmedge.models.encoders import ENCODERS
from mmedge.models.fusions import FUSIONS
from mmedge.recipe import Model, Prune
from mmedge.stages.quantize import ptq
from mmedge.stages.trial import try_export
from tests.conftest import narrowed

MODALITIES = {
    "image": {"kind": "image", "height": 20, "width": 17, "channels": 3},
    "audio": {"kind": "audio", "sample_rate": 8000, "mels": 16, "frames": 20},
    "text": {"kind": "text", "length": 12, "tokens": 40},
    "tabular": {"kind": "tabular", "columns": ["a", "b", "c"], "mean": [0, 0, 0], "std": [1, 1, 1]},
    "sensor": {"kind": "sensor", "channels": 3, "length": 24},
    "array": {"kind": "array", "shape": [2, 16, 16]},
    "points": {"kind": "points", "points": 24, "mean": [0, 0, 0], "std": [1, 1, 1]},
    "video": {"kind": "video", "frames": 3, "height": 20, "width": 17, "channels": 3},
}


def built(encoders, fusion="concat", weights=None, **more):
    """A fusion network with an encoder of the kind that is asked for of each modality, and its contract."""
    torch.manual_seed(0)
    modalities = {name: MODALITIES[name.partition("_")[0]] for name in encoders}
    contract = Contract.model_validate({"task": "classification", "labels": ["a", "b", "c"], "modalities": modalities})
    sizes = {name: {"kind": of, "widths": [8, 16], "depth": 2, "patch": 4, **more} for name, of in encoders.items()}
    section = Model.model_validate(
        {"encoders": sizes, "embedding": 8, "hidden": 8, "fusion": fusion, "fusion_weights": weights or {}}
    )
    return load.build(section, contract).eval(), contract


def goes_the_road(encoders, fusion, folder, **more):
    """Export and prune; of what is left INT8 and a TensorRT engine. The pruned network, and how many parameters it had."""
    module, contract = built(encoders, fusion, **more)
    try_export(module, contract, "distill.model")
    before = params(module)
    narrowed(module, contract, Prune(round_to=2), 0.5)
    try_export(module, contract, "prune")
    graph = folder / "model.onnx"
    export(module, contract, graph)
    calls = [{name: x[:1].numpy() for name, x in noise(contract).items()} for _ in range(4)]
    ptq.int8(graph, folder / "int8.onnx", calls)
    job = Job(graph, "engine", profiles_of(contract), tensorrt.Options())
    tensorrt.build("tensorrt-rtx", job)
    assert any(path.stat().st_size for path in folder.glob("engine*"))
    return module, before


def test_the_recipe_names_the_fusions_that_there_are():
    assert get_args(Model.model_fields["fusion"].annotation) == tuple(FUSIONS)


@pytest.mark.long
def test_several_kinds_at_once_lose_channels_and_export():
    module, contract = built({"image": "mobilenet", "sensor": "transformer"}, "gated")
    before = params(module)
    narrowed(module, contract, Prune(round_to=2), 0.5)
    try_export(module, contract, "prune")
    assert params(module) < 0.7 * before


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "of"), [(kind, of) for kind in ENCODERS for of in ENCODERS[kind]])
def test_an_encoder_goes_the_road(kind, of, tmp_path):
    module, before = goes_the_road({kind: of}, "concat", tmp_path)
    assert params(module) < before


@pytest.mark.slow
def test_attention_over_frames_goes_the_road(tmp_path):
    module, before = goes_the_road({"video": "conv"}, "concat", tmp_path, frames="attention")
    assert params(module) < before


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_fusion_goes_the_road(fusion, tmp_path):
    different = {"image": "conv", "sensor": "conv", "tabular": "mlp"}
    tokens = {"image": "resnet", "text": "transformer", "tabular": "mlp"}
    equal = {"image": "conv", "image_too": "conv"}  # of inputs that are stacked
    of = {"early": equal, "bottleneck": tokens, "tokens": tokens}
    module, before = goes_the_road(of.get(fusion, different), fusion, tmp_path)
    assert params(module) < before
