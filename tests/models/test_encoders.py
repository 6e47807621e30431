"""The built-in encoders: one a kind of modality, each from its tensor to one embedding."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter

from mmedge.models.encoders import ENCODERS, encoder_of
from mmedge.recipe import Encoder, Model
from mmedge.spec import ModalitySpec

KINDS = {
    "image": {"height": 9, "width": 6, "channels": 3},
    "audio": {"sample_rate": 8000, "mels": 8, "frames": 7},
    "text": {"length": 12, "tokens": 40},
    "tabular": {"columns": ["a", "b"]},
    "sensor": {"channels": 3, "length": 20},
    "array": {"shape": [2, 5]},
}


def test_every_kind_of_modality_has_an_encoder():
    specs = get_args(get_args(ModalitySpec)[0])
    assert set(ENCODERS) == set(KINDS) == {get_args(spec.model_fields["kind"].annotation)[0] for spec in specs}


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_takes_its_kinds_tensor_to_one_embedding(kind):
    spec = TypeAdapter(ModalitySpec).validate_python({"kind": kind, **KINDS[kind]})
    encoder = encoder_of(spec, Encoder(widths=(6, 8), depth=2), Model(embedding=5)).eval()
    x = torch.zeros(2, *spec.shape, dtype=getattr(torch, spec.dtype))
    assert encoder(x).shape == (2, 5) and torch.isfinite(encoder(x)).all()


def test_an_array_that_is_a_map_gets_convolutions():
    spec = TypeAdapter(ModalitySpec).validate_python({"kind": "array", "shape": [2, 8, 8]})
    encoder = encoder_of(spec, Encoder(), Model())
    assert any(isinstance(layer, torch.nn.Conv2d) for layer in encoder.modules())
