"""Classes of unequal size: weights, focal loss and balanced draws; and that the defaults change nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmedge.contract import Contract
from mmedge.recipe import Train
from mmedge.spec import ArraySpec
from mmedge.training.loop.batches import Training, batches, class_weights
from mmedge.training.losses import classification
from tests.heads import CLASSES, samples

TARGETS = np.array([0] * 60 + [1] * 30 + [2] * 10 + [-1] * 20)
CONTRACT = Contract(modalities={"x": ArraySpec(kind="array", shape=(1,))}, heads={"logits": CLASSES})
SAMPLES = samples(
    "train",
    tuple(map(str, range(120))),
    {"x": np.arange(120, dtype=np.float32)[:, None]},
    np.ones((120, 1), bool),
    TARGETS,
    np.arange(120),
)


def drawn(**keys):
    train = Train(batch_size=40, **keys)
    found = [
        b
        for epoch in range(20)
        for b in batches(Training(CONTRACT, SAMPLES, SAMPLES, train, np.arange(120), 0, 0), epoch)
    ]
    return found, np.bincount(np.concatenate([b.targets["logits"].numpy() for b in found]) + 1, minlength=4) / (
        40 * len(found)
    )


def test_balanced_weights_give_every_class_the_same_sum_and_an_average_of_one():
    weights = class_weights(SAMPLES)["logits"]
    assert [weights[label == TARGETS].sum() for label in range(3)] == pytest.approx([100 / 3] * 3)
    assert (weights[TARGETS == -1] == 1).all() and weights[TARGETS >= 0].mean() == pytest.approx(1)


def test_balanced_sampling_draws_every_class_as_often_and_the_unlabelled_as_before():
    _, uniform = drawn()
    _, balanced = drawn(sampling="balanced")
    np.testing.assert_allclose(uniform, [20 / 120, 0.5, 0.25, 10 / 120], atol=1e-9)
    np.testing.assert_allclose(balanced, [20 / 120, *[100 / 360] * 3], atol=0.03)


def test_weights_come_with_the_batch_only_where_they_are_asked_for():
    found, _ = drawn(class_weights="balanced")
    expected = torch.from_numpy(class_weights(SAMPLES)["logits"])
    assert all(torch.equal(b.weights["logits"], expected[b.index]) for b in found)
    assert all(not b.weights for b in drawn()[0])


def test_weighted_and_focal_losses_are_what_their_papers_say():
    torch.manual_seed(0)
    output, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, -1, 0])
    weights = torch.tensor([1.0, 2.0, 3.0, 1.0, 9.0, 0.5])
    p = F.softmax(output, dim=1)[range(6), targets.clamp(min=0)]
    known = targets >= 0
    expected = (-(p.log()) * weights * (1 - p) ** 2)[known].sum() / 6
    torch.testing.assert_close(label_loss(output, targets, weights=weights, gamma=2.0), expected)
    torch.testing.assert_close(label_loss(output, targets, weights=torch.ones(6)), label_loss(output, targets))


def label_loss(output, targets, weights=None, gamma=0.0):
    return classification.label_loss(output, targets, CLASSES, Train(focal_gamma=gamma), weights)


def test_the_focal_loss_of_a_certain_answer_has_a_finite_gradient():
    output = torch.tensor([[200.0, 0.0]], requires_grad=True)
    label_loss(output, torch.tensor([0]), gamma=0.5).backward()
    assert torch.isfinite(output.grad).all()
