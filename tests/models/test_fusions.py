"""Fusions: each takes what the others take, and those of decisions are what they are called."""

import pytest
import torch

from mmedge.models.fusions import FUSIONS


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_fusion_takes_the_features_of_all_to_one_vector(kind):
    torch.manual_seed(0)
    features = torch.randn(3, 5, 8)
    assert FUSIONS[kind](3, 8, 6)(*features).shape == (5, 6)
    assert FUSIONS[kind](1, 8, 6)(features[0]).shape == (5, 6)


@pytest.mark.parametrize("kind", ["average", "votes"])
def test_a_decision_is_the_mean_of_what_each_would_decide(kind):
    torch.manual_seed(0)
    fusion, head, features = FUSIONS[kind](2, 8, 6), torch.nn.Linear(6, 3), torch.randn(2, 5, 8)
    shares = torch.tensor([0.5, 0.5])
    if kind == "votes":
        torch.nn.init.normal_(fusion.shares)
        shares = fusion.shares.softmax(0)
    alone = [head(layer(x)) for layer, x in zip(fusion.own, features)]
    assert torch.allclose(head(fusion(*features)), shares[0] * alone[0] + shares[1] * alone[1], atol=1e-6)
