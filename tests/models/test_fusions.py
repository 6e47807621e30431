"""Fusions: each takes what the others take, and those of decisions are what they are called."""

import numpy as np
import pytest
import torch

from mmedge.data.store.samples import Samples
from mmedge.errors import UsageError
from mmedge.models.fusion import FusionNet
from mmedge.models.fusions import FUSIONS
from mmedge.models.fusions.early import stacked
from mmedge.recipe import Train
from mmedge.training.loop.stacking import stack
from tests.models.test_built_in import built


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_fusion_takes_the_features_of_all_to_one_vector(kind):
    torch.manual_seed(0)
    if getattr(FUSIONS[kind], "of_tokens", False):
        tokens, hidden = [torch.randn(5, n, 8) for n in (4, 1)], [torch.zeros(5, n, dtype=torch.bool) for n in (4, 1)]
        hidden[0][:, 2:] = True
        other = [torch.cat([tokens[0][:, :2], torch.randn(5, 2, 8)], dim=1), tokens[1]]
        fusion = FUSIONS[kind](2, 8, 6)
        assert fusion(tokens, hidden).shape == (5, 6)
        assert torch.allclose(fusion(tokens, hidden), fusion(other, hidden), atol=1e-6), "a hidden token says something"
        return
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


@pytest.mark.parametrize("kind", ["sum", "average"])
def test_weights_of_the_recipe_are_those_that_count_and_none_is_learned(kind):
    given = {"tabular_too": 1.0, "tabular": 3.0}
    module, _ = built({"tabular": "mlp", "tabular_too": "mlp"}, kind, weights=given)
    (first, second), fusion = torch.randn(2, 5, 8), module.fusion
    if kind == "sum":
        wanted = fusion.joint(3.0 * first + 1.0 * second)
    else:
        wanted = 0.75 * fusion.own[0](first) + 0.25 * fusion.own[1](second)
    assert torch.allclose(fusion(first, second), wanted, atol=1e-6)
    learned = {name for name, each in module.named_parameters() if each.requires_grad}
    assert not any("fusion.weights" in name or "shares" in name for name in learned)


@pytest.mark.parametrize(
    ("kind", "given", "what"),
    [
        ("concat", {"tabular": 1.0}, "the fusion concat takes no weights"),
        ("votes", {"tabular": 1.0}, "the fusion votes takes no weights"),
        ("sum", {"tabular": 1.0, "tabula_too": 1.0}, "no modality 'tabula_too' .did you mean 'tabular_too'"),
        ("sum", {"tabular": 1.0}, "the modality 'tabular_too' has no weight"),
        ("average", {"tabular": 0.0, "tabular_too": 0.0}, "every weight is 0"),
    ],
)
def test_weights_that_a_fusion_cannot_take_are_told(kind, given, what):
    with pytest.raises(UsageError, match=what):
        built({"tabular": "mlp", "tabular_too": "mlp"}, kind, weights=given)


def test_stacking_trusts_the_modality_that_says_something_and_changes_no_weight_that_was_learnt():
    module, contract = built({"tabular": "mlp", "tabular_too": "mlp"}, "stacking")
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=(60, 3)).astype(np.float32) for name in contract.modalities}
    telling = module.eval()(torch.tensor([[True, False]] * 60), **{n: torch.from_numpy(x) for n, x in inputs.items()})
    samples = Samples(
        split="validation",
        ids=tuple(map(str, range(60))),
        groups=np.arange(60),
        heads=contract.heads,
        inputs=inputs,
        present=np.ones((60, 2), bool),
        targets={"logits": telling["logits"].argmax(1).numpy()},
    )
    before = {name: x.clone() for name, x in module.state_dict().items()}
    (note,) = stack(module, contract, samples, Train())
    first, second = module.fusion.weights.tolist()
    module.fusion.weights[0] = 0.0  # where an earlier fit may have ended
    stack(module, contract, samples, Train())
    assert module.fusion.weights.tolist() == [first, second]
    assert first > 2 * second and "fitted on 60 validation samples: tabular" in note
    assert [name for name, x in module.state_dict().items() if not torch.equal(x, before[name])] == ["fusion.weights"]


def test_no_other_network_is_stacked():
    module, contract = built({"tabular": "mlp"}, "votes")
    assert isinstance(module, FusionNet) and stack(module, contract, None, Train()) == ()


def test_early_fusion_sees_all_channels_at_once_and_what_is_absent_has_no_influence():
    module, _ = built({"image": "resnet", "image_too": "conv"}, "early")
    x = {name: torch.randn(4, 3, 20, 17) for name in ("image", "image_too")}
    present = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    noise = {name: torch.where(present[:, n].view(-1, 1, 1, 1), v, 7.0) for n, (name, v) in enumerate(x.items())}
    assert torch.equal(module(present, **x)["logits"], module(present, **noise)["logits"])
    assert next(p for p in module.encoders.stacked.parameters() if p.dim() == 4).shape[1] == 6
    each = present[:, None].expand(-1, 2, -1)
    torch.testing.assert_close(module(each, **x)["logits"], module(present, **x)["logits"].repeat_interleave(2, 0))


@pytest.mark.parametrize("fusion", ["bottleneck", "tokens"])
def test_tokens_of_what_is_absent_and_padding_have_no_influence(fusion):
    module, _ = built({"image": "resnet", "text": "transformer", "tabular": "mlp"}, fusion)
    x = {"image": torch.randn(4, 3, 20, 17), "text": torch.randint(1, 40, (4, 12)), "tabular": torch.randn(4, 3)}
    present = torch.tensor([[True, False, True], [False, True, True], [True, True, False], [False, False, True]])
    asked = module(present, **x)["logits"]
    noise = {n: torch.where(present[:, i].view(-1, *[1] * (v.dim() - 1)), v, 3) for i, (n, v) in enumerate(x.items())}
    torch.testing.assert_close(module(present, **noise)["logits"], asked)
    each = present[:, None].expand(-1, 2, -1)
    torch.testing.assert_close(module(each, **x)["logits"], asked.repeat_interleave(2, 0))
    module.encoders.text.tokens.places.data[:, 5:] += 1
    padded = {**x, "text": torch.cat([x["text"][:, :5], torch.zeros(4, 7, dtype=torch.int64)], dim=1)}
    told = module(present, **padded)["logits"]
    module.encoders.text.tokens.places.data[:, 5:] += 1
    torch.testing.assert_close(module(present, **padded)["logits"], told)
    moved = {**x, "text": x["text"].flip(1)}
    assert not torch.allclose(module(present, **moved)["logits"], asked), "an order that is not seen"


def test_inputs_that_cannot_be_stacked_are_told_with_their_shapes():
    with pytest.raises(UsageError, match=r"equal shape, and these are image \[3, 20, 17\], sensor \[3, 24\]"):
        built({"image": "conv", "sensor": "conv"}, "early")
    with pytest.raises(UsageError, match="text ids"):
        built({"text": "conv"}, "early")


def test_series_and_tables_are_stacked_too():
    _, contract = built({"sensor": "conv", "sensor_too": "conv"}, "early")
    assert stacked(contract.modalities).shape == (6, 24)
    _, contract = built({"tabular": "mlp", "tabular_too": "mlp"}, "early")
    assert stacked(contract.modalities).shape == (6,)
