"""What encoders learn without labels: each kind lowers its own loss, and leaves the network as it takes labels."""

import numpy as np
import pytest
import torch

from mmedge.contract import Contract
from mmedge.models import load
from mmedge.recipe import InvalidRecipe, Model, Pretrain, Train
from mmedge.training.loop.batches import Batch
from mmedge.training.pretexts import PRETEXTS, from_nothing
from mmedge.training.pretexts.masked import _Parts
from tests.data.made import parsed

MODALITIES = {
    "image": {"kind": "image", "height": 10, "width": 9, "channels": 1},
    "sound": {"kind": "audio", "sample_rate": 8000, "mels": 8, "frames": 12},
    "words": {"kind": "text", "length": 6, "tokens": 20},
    "row": {"kind": "tabular", "columns": ["a", "b", "c"], "mean": [0, 0, 0], "std": [1, 1, 1]},
    "cloud": {"kind": "points", "points": 12},
    "clip": {"kind": "video", "frames": 2, "height": 8, "width": 8, "channels": 1},
}


def made(*names, rows=24):
    """A small network of some modalities, and a batch in which all of them show one hidden number."""
    torch.manual_seed(0)
    contract = Contract.model_validate(
        {"task": "classification", "labels": ["a", "b"], "modalities": {name: MODALITIES[name] for name in names}}
    )
    section = Model.model_validate({"embedding": 16, "encoders": {name: {"widths": [8, 16]} for name in names}})
    hidden, inputs = torch.randn(rows), {}
    for name, spec in contract.modalities.items():
        if spec.dtype != "float32":
            inputs[name] = (hidden[:, None] * 3 + 10).long().clamp(1, 19).expand(rows, *spec.shape).contiguous()
        else:
            inputs[name] = hidden.reshape(-1, *(1,) * len(spec.shape)) + 0.1 * torch.randn(rows, *spec.shape)
    if "cloud" in inputs:
        inputs["cloud"][:, -1] = 1
    batch = Batch(np.arange(rows), 0, inputs, torch.ones(rows, len(names), dtype=torch.bool), {})
    return load.build(section, contract), contract, section, batch


@pytest.mark.parametrize(
    ("kind", "names"),
    [("contrastive", ("image", "row", "cloud")), ("masked", tuple(MODALITIES)), ("adversarial", ("sound", "row"))],
)
def test_a_pretext_is_learned_and_reaches_the_encoders(kind, names):
    module, contract, section, batch = made(*names)
    learned = PRETEXTS[kind](module.encoders, contract, Pretrain(kind=kind), section)
    optimizer = torch.optim.Adam([*module.parameters(), *learned.parameters()], 3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = learned(module, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all()
    reached = {name for name, p in module.encoders.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name.partition(".")[0] for name in reached} == ({"sound"} if kind == "adversarial" else set(names))
    if kind != "adversarial":  # its two sides pull at each other
        assert losses[-1] < losses[0]


def test_hidden_parts_are_blank_to_the_encoder_and_the_rest_is_as_it_was():
    _, contract, _, batch = made("image", "words", "clip")
    torch.manual_seed(1)
    for name, blank in (("image", 0), ("words", 0), ("clip", 0)):
        parts, x = _Parts(contract.modalities[name], 16, 4), batch.inputs[name]
        hidden = parts.drawn(x, 0.5)
        without = parts.without(x, hidden)
        assert hidden.any() and not hidden.all()
        assert ((without == x) | (without == blank)).all() and (without != x).any()
        if name != "words":  # a part's numbers, put together again, are those that went
            pieces, after = parts._pieces(x), parts._pieces(without)
            assert torch.equal(after[~hidden], pieces[~hidden]) and not after[hidden].any()


def test_a_modality_that_is_absent_is_not_asked_for():
    module, contract, section, batch = made("image", "row")
    learned = PRETEXTS["masked"](module.encoders, contract, Pretrain(), section).eval()
    module.eval()
    present = batch.present.clone()
    present[:12, 1] = False
    torch.manual_seed(2)
    before = learned(module, Batch(batch.index, 0, batch.inputs, present, {}))
    other = {**batch.inputs, "row": torch.cat([torch.full((12, 3), 9.0), batch.inputs["row"][12:]])}
    torch.manual_seed(2)
    assert torch.equal(before, learned(module, Batch(batch.index, 0, other, present, {})))


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("contrastive", "image", "there is one"),
        ("masked", "cloud", "no modality has any"),
        ("adversarial", "row", "is one"),
    ],
)
def test_what_cannot_be_learned_of_the_data_s_modalities_is_a_fault_of_the_recipe(kind, name, said):
    data = {"manifest": "m.csv", "target": "y", "modalities": {name: MODALITIES[name]}}
    values = {"schema": 1, "name": "x", "data": data, "distill": {"pretrain": {"kind": kind}}}
    with pytest.raises(InvalidRecipe, match=f"distill.pretrain.kind: .*{said}"):
        parsed(values)


def test_what_a_teacher_hears_otherwise_counts_for_what_it_can_learn():
    data = {"manifest": "m.csv", "target": "y", "modalities": {"sound": MODALITIES["sound"]}}
    heard = {"sound": {"kind": "audio", "sample_rate": 8000, "features": "waveform", "length": 800}}
    teacher = {"pretrain": {"kind": "adversarial"}, "preprocessing": heard}
    with pytest.raises(InvalidRecipe, match="teacher.pretrain.kind: .*no modality is one"):
        parsed({"schema": 1, "name": "x", "data": data, "teacher": teacher})


@pytest.mark.parametrize("section", ["teacher", "distill"])
def test_a_network_of_one_encoder_for_all_modalities_cannot_be_pretrained(section):
    data = {"manifest": "m.csv", "target": "y", "modalities": {name: MODALITIES[name] for name in ("image", "row")}}
    of = {"pretrain": {}, "model": {"fusion": "early"}}
    with pytest.raises(InvalidRecipe, match="an encoder a modality"):
        parsed({"schema": 1, "name": "x", "data": data, "distill": {}, section: of})


def test_the_control_is_trained_as_long_as_both_together_and_sees_the_same_views():
    train = from_nothing(Train(epochs=10, views=40), Pretrain(epochs=7))
    assert (train.epochs, train.views) == (17, 10)
