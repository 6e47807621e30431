"""Losses against an independent computation with numpy, term by term."""

import numpy as np
import pytest
import torch

from mmedge.recipe import Loss, Train
from mmedge.tasks import Head
from mmedge.training import losses

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(6, 4))
TARGETS = np.array([0, 3, -1, 2, -1, 1])


CLASSES, LABELS = (Head(task=task, labels=tuple("abcd")) for task in ("classification", "multilabel"))
NUMBER, GRADES = Head(task="regression"), Head(task="ordinal", labels=tuple("abcde"))


def t(x):
    return torch.from_numpy(np.asarray(x))


def label_loss(head, output, targets, smoothing=0.0):
    return losses.of(head).label_loss(output, targets, head, Train(label_smoothing=smoothing), None)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_cross_entropy_of_the_labelled_over_the_whole_batch():
    p = softmax(STUDENT)
    expected = sum(-np.log(p[row, label]) for row, label in enumerate(TARGETS) if label >= 0) / 6
    assert label_loss(CLASSES, t(STUDENT), t(TARGETS)).item() == pytest.approx(expected)


def test_label_smoothing_mixes_in_the_uniform_distribution():
    log_p = np.log(softmax(STUDENT))
    expected = (
        sum(-(0.9 * log_p[row, label] + 0.1 * log_p[row].mean()) for row, label in enumerate(TARGETS) if label >= 0) / 6
    )
    assert label_loss(CLASSES, t(STUDENT), t(TARGETS), 0.1).item() == pytest.approx(expected)


def test_squared_error_of_the_labelled_and_no_gradient_of_nan():
    values, output = np.array([1.0, np.nan, 3.0]), t(np.array([[0.5], [9.0], [1.0]])).requires_grad_()
    loss = label_loss(NUMBER, output, t(values))
    assert loss.item() == pytest.approx((0.25 + 4.0) / 3)
    loss.backward()
    np.testing.assert_allclose(output.grad[:, 0], [2 * -0.5 / 3, 0, 2 * -2 / 3])


def test_of_several_numbers_each_counts_in_its_own_deviations_where_it_is_known():
    head = Head(task="regression", values=("a", "b"), mean=(0.0, 10.0), std=(1.0, 10.0))
    values, output = np.array([[1.0, 20.0], [np.nan, 0.0]]), t(np.array([[0.5, 30.0], [9.0, 5.0]])).requires_grad_()
    loss = label_loss(head, output, t(values))
    assert loss.item() == pytest.approx((0.25 + 1.0 + 0.25) / 4)
    loss.backward()
    assert output.grad[1, 0] == 0 and torch.isfinite(output.grad).all()


@pytest.mark.parametrize(("distance", "size"), [("l1", np.abs), ("mse", np.square)])
def test_arrays_are_compared_over_the_frames_that_there_are_and_by_their_lengths(distance, size):
    head = Head(task="frames", shape=(2, 2), varies=True, mean=(0.0, 0.0), std=(1.0, 2.0), distance=distance)
    targets = np.array([[1.0, 2.0, np.nan, np.nan, 1.0], [1.0, 1.0, 1.0, 1.0, 2.0], [np.nan] * 5])
    output = np.array([[0.0, 0.0, 9.0, 9.0, 2.0], [1.0, 1.0, 1.0, 3.0, 2.0], [0.0] * 5])
    rows = [size(np.array([-1.0, -1.0])).mean() + size(1 / 0.5), size(np.array([0, 0, 0, 1.0])).mean()]
    wanted = t(output).requires_grad_()
    loss = label_loss(head, wanted, t(targets))
    assert loss.item() == pytest.approx(sum(rows) / 3)
    loss.backward()
    assert (wanted.grad[0, 2:4] == 0).all() and (wanted.grad[2] == 0).all()
    teacher = np.array([[1.0, 2.0, 5.0, 5.0, 1.0], [1.0, 1.0, 1.0, 1.0, 2.0], [0.0, 2.0, 7.0, 7.0, 1.2]])
    of_teacher = losses.of(head).teacher_loss(t(output), t(teacher), t(targets), head, Loss())
    # Of the third, which has no target, the teacher's own length says that one frame counts.
    assert of_teacher.item() == pytest.approx((sum(rows) + size(np.array([0, 1.0])).mean() + size(1.2 / 0.5)) / 3)


def test_a_batch_without_labels_has_a_loss_of_zero():
    assert label_loss(CLASSES, t(STUDENT), t(np.full(6, -1))).item() == 0
    assert label_loss(NUMBER, t(STUDENT[:, :1]), t(np.full(6, np.nan))).item() == 0


def test_several_labels_are_the_mean_of_binary_cross_entropies_of_the_labelled():
    targets = np.array([[1.0, 0.0, 1.0, 0.0], [np.nan] * 4])
    p = 1 / (1 + np.exp(-STUDENT[0]))
    expected = -(targets[0] * np.log(p) + (1 - targets[0]) * np.log(1 - p)).sum() / 8
    output = t(STUDENT[:2]).requires_grad_()
    loss = label_loss(LABELS, output, t(targets))
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert (output.grad[1] == 0).all() and torch.isfinite(output.grad).all()


def test_grades_are_the_mean_over_thresholds_of_binary_cross_entropies_of_lying_above_them():
    grades = np.array([0, 4, -1, 2, -1, 1])
    above = (grades[:, None] > np.arange(4)).astype(float)
    p = 1 / (1 + np.exp(-STUDENT))
    each = -(above * np.log(p) + (1 - above) * np.log(1 - p)).mean(axis=1)
    output = t(STUDENT).requires_grad_()
    loss = label_loss(GRADES, output, t(grades))
    assert loss.item() == pytest.approx(each[grades >= 0].sum() / 6)
    loss.backward()
    assert (output.grad[[2, 4]] == 0).all() and torch.isfinite(output.grad).all()
    # A higher grade pulls every threshold below it up, and no other.
    assert (np.sign(output.grad[3].numpy()) == [-1, -1, 1, 1]).all()


def test_a_numbers_loss_is_in_standard_units_of_the_training_targets():
    head = Head(task="regression", mean=100.0, std=20.0)
    assert label_loss(head, t([[120.0]]), t([100.0])).item() == pytest.approx(1.0)
    assert losses.of(head).teacher_loss(t([[140.0]]), t([[100.0]]), t([0.0]), head, None).item() == pytest.approx(4.0)


def test_every_task_has_its_losses_and_both_have_all_that_is_asked_of_them():
    from mmedge.tasks import TASKS, Task

    assert list(losses.LOSSES) == list(TASKS)
    for name, of_task in losses.LOSSES.items():
        asked = {what for what in vars(losses.Losses) if not what.startswith("_")}
        assert asked and not [what for what in asked if not callable(getattr(of_task, what, None))], name
    for name, task in TASKS.items():
        assert not [
            what for what in (*Task.__annotations__, *vars(Task)) if what[0] != "_" and not hasattr(task, what)
        ], name
