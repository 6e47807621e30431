"""Where a network's encoders end, its last maps are and its head begins: of networks that users bring, each known by reading it."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.graph.trace import generated
from mmedge.measure.embedding import alike, features
from mmedge.measure.inside import Seen, inside
from mmedge.measure.places import Place, places_of
from mmedge.models import load
from mmedge.recipe import Model
from tests.models.networks import BROUGHT, HAND_WRITTEN, PAIR, Network

NETWORKS = {net.name: net for net in (*HAND_WRITTEN, *BROUGHT)}


class Early(nn.Module):
    """Both inputs side by side from the first layer on."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Linear(16, 6), nn.Linear(6, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.out(torch.relu(self.body(torch.cat([left, right], 1))))


class Bare(nn.Module):
    """Weights and no layers: there is nothing to hook."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.randn(8, 3))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ self.a + right @ self.b


class Compiled(nn.Module):
    """A part that takes no hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.jit.script(nn.Sequential(nn.Linear(16, 6), nn.ReLU()))
        self.out = nn.Linear(6, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.out(self.body(torch.cat([left, right], 1)))


NETWORKS |= {"compiled": Network("compiled", Compiled, PAIR)}
NETWORKS |= {"early": Network("early", Early, PAIR), "bare": Network("bare", Bare, PAIR)}


def built(net):
    torch.manual_seed(0)
    return load.build(Model(factory="x:y"), net.contract, factory=net.make, fresh=True).eval()


def told(place: Place | None) -> str | None:
    return place and f"{place.layer.removeprefix('inner.')} {place.call} {'gives' if place.gives else 'takes'}"


@pytest.mark.parametrize(
    ("name", "encoders", "maps", "fusion"),
    [
        ("siamese", {"left": "encoder 0 gives", "right": "encoder 1 gives"}, {}, "out 0 takes"),
        ("gated", {"table": "table 0 gives", "text": "gate 0 gives"}, {}, "out 0 takes"),
        ("knows-presence", {"left": "a 0 gives", "right": "b 0 gives"}, {}, "out 0 takes"),
        ("bottleneck", {"image": "fc 0 takes"}, {"image": "bn3 0 gives"}, None),
        ("length-first", {"table": "out 0 takes"}, {}, None),
        ("early", {}, {}, "out 0 takes"),
        ("bare", {}, {}, None),
    ],
)
def test_places_are_those_that_a_reader_of_the_code_would_name(name, encoders, maps, fusion):
    net = NETWORKS[name]
    found = places_of(built(net), net.contract, net.contract.output)
    assert {modality: told(place) for modality, place in found.encoders.items()} == encoders
    assert {modality: told(place) for modality, place in found.maps.items()} == maps and told(found.fusion) == fusion


@pytest.mark.slow
@pytest.mark.parametrize(("name", "maps"), [("CLIP", False), ("ViT", False), ("ResNet", True), ("ConvNext", True)])
def test_a_convolution_that_cuts_patches_is_no_map(name, maps):
    net = NETWORKS[name]
    found = places_of(built(net), net.contract, net.contract.output)
    assert set(found.encoders) == set(net.modalities) and bool(found.maps) == maps
    assert told(found.fusion) == ("head 0 takes" if name == "CLIP" else None)


def samples_of(contract: Contract, count: int = 12) -> Samples:
    inputs = {name: x.numpy() for name, x in generated(contract, count).items()}
    present, targets = inputs.pop("present"), {contract.output: np.arange(count) % 3}
    ids = tuple(map(str, range(count)))
    return Samples("test", ids, inputs, present, targets, np.arange(count), contract.heads)


def test_features_are_what_the_layers_give_for_every_sample():
    net = NETWORKS["siamese"]
    module, samples = built(net), samples_of(net.contract)
    found = features(module, places_of(module, net.contract, net.contract.output), samples)
    encoder = module.inner.encoder
    with torch.no_grad():
        left, right = (encoder(torch.from_numpy(np.array(samples.inputs[name]))).numpy() for name in ("left", "right"))
    assert found["left"] == pytest.approx(left) and found["right"] == pytest.approx(right)
    assert found["fusion"] == pytest.approx(np.concatenate([np.abs(left - right), left * right], axis=1), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("early", ["no features of left, right before fusion: no layer's output depends on that alone"]),
        (
            "compiled",
            [
                "nothing is seen inside body: it is compiled with torch.jit",
                "no features of left, right before fusion: no layer's output depends on that alone",
            ],
        ),
        (
            "bare",
            [
                "no features of left, right before fusion: no layer's output depends on that alone",
                "no features after fusion: no layer is given what several modalities have made",
            ],
        ),
    ],
)
def test_what_cannot_be_seen_is_told(name, notes):
    net = NETWORKS[name]
    module, samples = built(net), samples_of(net.contract)
    outputs = load_outputs(module, samples)
    found = inside(Seen(module, net.contract, samples, outputs, lambda row: (row + 1, None)), pictures=2)
    assert found.notes == notes and [one.place for one in found.embeddings] == ([] if name == "bare" else ["fusion"])
    assert [one.row for one in found.saliency] == [1, 12] and found.attention == []
    assert all(set(one.shares) == {"left", "right"} and not one.pictures for one in found.saliency)


@pytest.mark.parametrize(
    ("name", "grad_cam", "layers"),
    [("bottleneck", {"image"}, []), ("transformer", set(), ["body.layers.0.self_attn", "body.layers.1.self_attn"])],
)
def test_a_users_network_has_grad_cam_where_it_convolves_and_attention_where_it_attends(name, grad_cam, layers):
    net = NETWORKS[name]
    module, samples = built(net), samples_of(net.contract)
    found = inside(Seen(module, net.contract, samples, load_outputs(module, samples), lambda row: (row, None)), 1)
    assert [one.layer for one in found.attention] == layers and len(found.embeddings) == 1
    if name == "transformer":
        assert found.notes == ["no evidence in text, and no share of it: between two tokens there is nothing"]
    assert [(set(one.grad_cam or {}), set(one.pictures), one.target) for one in found.saliency] == (
        [(grad_cam, grad_cam, "a")] if grad_cam else []
    )


def load_outputs(module, samples):
    with torch.no_grad():
        given = {name: torch.from_numpy(np.array(x)) for name, x in samples.inputs.items()}
        return {name: x.numpy() for name, x in module(**given, present=torch.from_numpy(samples.present)).items()}


def test_neighbours_are_counted_by_their_labels():
    rows = np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    found = alike(rows, np.array(["a", "a", "a", "b", "b", "a"]))
    assert found == pytest.approx([3 / 5, 3 / 5, 3 / 5, 1 / 5, 1 / 5, 3 / 5])
