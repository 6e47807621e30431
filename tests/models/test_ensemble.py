"""An ensemble: networks that differ, trained apart, whose outputs have one mean."""

import pytest
import torch
from pydantic import ValidationError

from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.models import load
from mmedge.models.ensemble import members_of
from mmedge.recipe import Distill, MainTeacher, Model
from mmedge.training.teaching.layers import layer_of
from tests.models.test_built_in import MODALITIES

CONTRACT = Contract.model_validate(
    {"task": "classification", "labels": ["a", "b"], "modalities": {"tabular": MODALITIES["tabular"]}}
)


def test_an_ensemble_gives_the_mean_of_networks_that_differ():
    module = load.build(Model(ensemble=3), CONTRACT).eval()
    x, present = torch.randn(5, 3), torch.ones(5, 1, dtype=torch.bool)
    each = torch.stack([member(present=present, tabular=x)["logits"] for member in members_of(module)])
    torch.testing.assert_close(module(present=present, tabular=x)["logits"], each.mean(dim=0))
    assert len(each) == 3 and not torch.allclose(each[0], each[1])


def test_hints_are_of_the_first_network():
    module = load.build(Model(ensemble=2), CONTRACT)
    assert layer_of(module, "fusion") is module.members[0].fusion


def test_what_cannot_be_an_ensemble_is_told():
    vectors = {"task": "retrieval", "towers": {"tabular": ["tabular"], "sensor": ["sensor"]}, "dimensions": 4}
    pair = {name: MODALITIES[name] for name in ("tabular", "sensor")}
    contract = Contract.model_validate({"modalities": pair, "heads": {"vectors": vectors}})
    with pytest.raises(UsageError, match="has no mean"):
        load.build(Model(ensemble=2), contract)
    for section, values in (
        (Distill, {"model": {"ensemble": 2}}),
        (MainTeacher, {"model": {"ensemble": 2, "weights": "w.safetensors"}}),
        (MainTeacher, {"model": {"ensemble": 2}, "train": {"privacy": {"epsilon": 8, "delta": 1e-5}}}),
    ):
        with pytest.raises(ValidationError, match="ensemble"):
            section.model_validate(values)
