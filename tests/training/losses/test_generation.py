"""Losses of texts: against those worked out token by token, and what of a batch teaches."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmedge.recipe import Loss, Train
from mmedge.tasks.head import Decoding, Head
from mmedge.training.losses import generation

HEAD = Head(task="generation", decoding=Decoding(fitted="{}", end=5, length=3))
TARGETS = torch.tensor([[1, 2, 5, 0], [4, 5, 0, 0], [-1, 0, 0, 0]])


def outputs(seed):
    return torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_label_loss_is_the_mean_over_rows_of_the_mean_over_each_ones_tokens(smoothing):
    output, train = outputs(0), Train(label_smoothing=smoothing)
    each = [
        F.cross_entropy(output[row, :count], TARGETS[row, :count], label_smoothing=smoothing)
        for row, count in ((0, 3), (1, 2))
    ]
    found = generation.label_loss(output, TARGETS, HEAD, train, None)
    assert found == pytest.approx(float(sum(each)) / 3)  # the row without a text counts in the number


def test_nothing_is_learned_of_padding_nor_of_a_text_that_is_not_known():
    output = outputs(1).requires_grad_()
    (generation.label_loss(output, TARGETS, HEAD, Train(), None) + _taught(output)).backward()
    learned = output.grad.abs().sum(dim=2) > 0
    assert learned.tolist() == [[True, True, True, False], [True, True, False, False], [False] * 4]


def _taught(output):
    return generation.teacher_loss(output, outputs(2), TARGETS, HEAD, Loss(temperature=3))


def test_the_teachers_loss_is_the_divergence_of_each_next_token_at_a_temperature():
    ours, theirs = outputs(1), outputs(2)
    p, q = (F.softmax(x / 3, dim=2).numpy() for x in (theirs, ours))
    each = 9 * (p * np.log(p / q)).sum(axis=2)
    assert _taught(ours) == pytest.approx((each[0, :3].mean() + each[1, :2].mean()) / 3, rel=1e-5)
    assert generation.teacher_loss(theirs, theirs, TARGETS, HEAD, Loss()) == pytest.approx(0, abs=1e-6)
