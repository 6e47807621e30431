"""Losses against an independent computation with numpy, term by term."""

import numpy as np
import pytest
import torch

from mmedge.training.losses.labels import label_loss

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(6, 4))
TARGETS = np.array([0, 3, -1, 2, -1, 1])


def t(x):
    return torch.from_numpy(np.asarray(x))


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_cross_entropy_of_the_labelled_over_the_whole_batch():
    p = softmax(STUDENT)
    expected = sum(-np.log(p[row, label]) for row, label in enumerate(TARGETS) if label >= 0) / 6
    assert label_loss(t(STUDENT), t(TARGETS)).item() == pytest.approx(expected)


def test_label_smoothing_mixes_in_the_uniform_distribution():
    log_p = np.log(softmax(STUDENT))
    expected = (
        sum(-(0.9 * log_p[row, label] + 0.1 * log_p[row].mean()) for row, label in enumerate(TARGETS) if label >= 0) / 6
    )
    assert label_loss(t(STUDENT), t(TARGETS), 0.1).item() == pytest.approx(expected)


def test_squared_error_of_the_labelled_and_no_gradient_of_nan():
    values, output = np.array([1.0, np.nan, 3.0]), t(np.array([[0.5], [9.0], [1.0]])).requires_grad_()
    loss = label_loss(output, t(values))
    assert loss.item() == pytest.approx((0.25 + 4.0) / 3)
    loss.backward()
    np.testing.assert_allclose(output.grad[:, 0], [2 * -0.5 / 3, 0, 2 * -2 / 3])


def test_a_batch_without_labels_has_a_loss_of_zero():
    assert label_loss(t(STUDENT), t(np.full(6, -1))).item() == 0
    assert label_loss(t(STUDENT), t(np.full(6, np.nan))).item() == 0


def test_several_labels_are_the_mean_of_binary_cross_entropies_of_the_labelled():
    targets = np.array([[1.0, 0.0, 1.0, 0.0], [np.nan] * 4])
    p = 1 / (1 + np.exp(-STUDENT[0]))
    expected = -(targets[0] * np.log(p) + (1 - targets[0]) * np.log(1 - p)).sum() / 8
    output = t(STUDENT[:2]).requires_grad_()
    loss = label_loss(output, t(targets))
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert (output.grad[1] == 0).all() and torch.isfinite(output.grad).all()
