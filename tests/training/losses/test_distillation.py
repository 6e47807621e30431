"""Each loss against its paper's formula, computed apart from it in float64 numpy, or against the paper's property."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import pearsonr

from mmedge.recipe import Loss
from mmedge.tasks import Head
from mmedge.training.losses import classification, hints, multilabel, regression

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(6, 5)), RNG.normal(size=(6, 5)) * 3
TARGETS = np.array([0, 1, 2, 3, 4, 0])


def tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_divergence_of_softened_classes_times_the_squared_temperature(temperature):
    log_p, log_q = (log_softmax(x / temperature, axis=1) for x in (TEACHER, STUDENT))
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean() * temperature**2
    assert classification.kd(*tensors(STUDENT, TEACHER), temperature).item() == pytest.approx(expected, rel=1e-9)


def test_dkd_with_the_teachers_doubt_as_beta_is_hintons_loss_again():
    # Equation 7 of the paper, for one sample: KD = TCKD + (1 - p_target) NCKD.
    for row in range(len(STUDENT)):
        student, teacher = tensors(STUDENT[row : row + 1], TEACHER[row : row + 1])
        doubt = 1 - softmax(TEACHER[row])[TARGETS[row]]
        target = torch.tensor([TARGETS[row]])
        decoupled = classification.dkd(student, teacher, target, 1.0, beta=doubt)
        assert decoupled.item() == pytest.approx(classification.kd(student, teacher, 1.0).item(), rel=1e-4, abs=1e-6)


def test_dkd_takes_the_teachers_class_where_there_is_no_label():
    student, teacher = tensors(STUDENT, TEACHER)
    own = teacher.argmax(dim=1)
    unlabelled = torch.full((6,), -1)
    assert torch.equal(
        classification.dkd(student, teacher, unlabelled, 2.0, 1.0), classification.dkd(student, teacher, own, 2.0, 1.0)
    )


def test_dist_is_one_minus_pearson_within_samples_and_within_classes():
    p, q = softmax(STUDENT, axis=1), softmax(TEACHER, axis=1)
    rows = np.mean([1 - pearsonr(p[i], q[i]).statistic for i in range(6)])
    columns = np.mean([1 - pearsonr(p[:, j], q[:, j]).statistic for j in range(5)])
    assert classification.dist(*tensors(STUDENT, TEACHER), 1.0).item() == pytest.approx(rows + columns, rel=1e-6)


def test_features_compare_directions_whatever_the_scale():
    student, teacher = tensors(STUDENT, TEACHER)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (STUDENT, TEACHER)]
    expected = ((unit[0] - unit[1]) ** 2).sum(axis=1).mean()
    assert hints.features(student, teacher).item() == pytest.approx(expected, rel=1e-9)
    assert hints.features(7 * student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_attention_maps_of_different_sizes_and_channels_compare():
    bright = torch.zeros(2, 3, 8, 8)
    bright[:, :, :2, :2] = 5.0
    same_place, elsewhere = torch.zeros(2, 7, 16, 16), torch.zeros(2, 7, 16, 16)
    same_place[:, :, :4, :4], elsewhere[:, :, 12:, 12:] = 1.0, 1.0
    maps = [hints.attention_map(x) for x in (bright, same_place, elsewhere)]
    assert [tuple(x.shape) for x in maps] == [(2, 16)] * 3
    assert hints.attention(maps[0], maps[1]).item() == pytest.approx(0, abs=1e-6)
    assert hints.attention(maps[0], maps[2]).item() == pytest.approx(2, abs=1e-6)


def test_relations_ignore_rotation_and_scale_and_see_a_moved_sample():
    teacher = torch.from_numpy(TEACHER)
    rotation = torch.linalg.qr(torch.from_numpy(RNG.normal(size=(5, 5))))[0]
    assert hints.relations(3 * teacher @ rotation, teacher).item() == pytest.approx(0, abs=1e-6)
    moved = teacher.clone()
    moved[0] += 5
    assert hints.relations(moved, teacher).item() > 0.01


def test_relations_match_a_direct_computation():
    def distances(x):
        away = np.linalg.norm(x[:, None] - x[None], axis=2)
        return away / away[~np.eye(len(x), dtype=bool)].mean()

    def angles(x):
        e = x[None] - x[:, None]
        length = np.linalg.norm(e, axis=2, keepdims=True)
        e = np.divide(e, length, out=np.zeros_like(e), where=length > 0)
        return np.einsum("ijd,ikd->ijk", e, e)

    def huber(a, b):
        d = np.abs(a - b)
        return np.where(d < 1, 0.5 * d**2, d - 0.5).mean()

    expected = huber(distances(STUDENT), distances(TEACHER)) + 2 * huber(angles(STUDENT), angles(TEACHER))
    assert hints.relations(*tensors(STUDENT, TEACHER)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("count", [7, 24])
def test_relations_of_a_large_batch_are_the_same_and_keep_no_angles(monkeypatch, count):
    """Of 1,024 samples the angles alone would be 4 GB of each side, kept until the gradient is taken."""
    drawn = RNG.normal(size=(2, count, 5))

    def measured():
        student, kept = torch.from_numpy(drawn[0]).requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            loss = hints.relations(student, torch.from_numpy(drawn[1]))
        loss.backward()
        return loss.item(), student.grad, max(kept)

    at_once = measured()
    monkeypatch.setattr(hints, "_MOST_ANGLES", 3 * count**2)  # three samples at a time
    in_parts = measured()
    assert in_parts[0] == pytest.approx(at_once[0], rel=1e-12)
    torch.testing.assert_close(in_parts[1], at_once[1])
    assert at_once[2] >= count**3 and in_parts[2] <= count**2


def test_contrastive_is_least_where_every_sample_knows_its_own_teacher():
    teacher = torch.from_numpy(TEACHER)
    likeness = torch.nn.functional.normalize(teacher, dim=1).numpy()
    expected = -np.diag(log_softmax(likeness @ likeness.T / 0.1, axis=1)).mean()
    assert hints.contrastive(teacher, teacher).item() == pytest.approx(expected, rel=1e-6)
    assert hints.contrastive(teacher.roll(1, 0), teacher) > hints.contrastive(teacher, teacher)


@pytest.mark.parametrize("kind", ["kd", "dkd", "dist"])
def test_every_logit_loss_is_zero_for_the_teacher_itself_and_has_a_finite_gradient_at_extremes(kind):
    teacher = torch.tensor([[40.0, -40.0, 0.0], [0.0, 1.0, 2.0]])
    head, loss = Head(task="classification", labels=("a", "b", "c")), Loss(kind=kind, temperature=2.0)
    targets = torch.tensor([0, -1])
    assert classification.teacher_loss(teacher, teacher, targets, head, loss).item() == pytest.approx(0, abs=1e-4)
    student = torch.tensor([[-60.0, 60.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    classification.teacher_loss(student, teacher, targets, head, loss).backward()
    assert torch.isfinite(student.grad).all()


def test_regression_learns_the_teachers_value():
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]])
    loss = regression.teacher_loss(student, teacher, torch.zeros(2), Head(task="regression"), Loss())
    assert loss.item() == pytest.approx(2.0)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_binary_kd_is_the_mean_divergence_of_softened_bernoullis(temperature):
    p, q = (1 / (1 + np.exp(-x / temperature)) for x in (TEACHER, STUDENT))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean() * temperature**2
    student, teacher = tensors(STUDENT, TEACHER)
    assert multilabel.binary_kd(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-9)


def test_a_label_of_binary_kd_is_taught_whatever_the_others_are():
    # One versus all: shifting one label's logit changes nothing of another's gradient, as a softmax would.
    teacher = torch.tensor([[2.0, -1.0]])
    gradients = []
    for other in (0.0, 50.0):
        student = torch.tensor([[0.0, other]], requires_grad=True)
        multilabel.teacher_loss(
            student, teacher, torch.zeros(1, 2), Head(task="multilabel", labels=("a", "b")), Loss()
        ).backward()
        gradients.append(student.grad[0, 0].item())
        assert torch.isfinite(student.grad).all()
    assert gradients[0] == pytest.approx(gradients[1])
