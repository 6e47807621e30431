"""Losses of one class a sample: labels, a teacher's softened logits, and several teachers together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmedge.errors import UsageError
from mmedge.recipe import Loss, Train
from mmedge.tasks import Head
from mmedge.tasks.classification import FLOOR
from mmedge.training.losses.several import HeadOutputs, mean_of


def label_loss(output: Tensor, targets: Tensor, head: Head, train: Train, weights: Tensor | None) -> Tensor:
    """Cross-entropy over the labelled rows, divided by all, so that a few labels do not outweigh many soft targets.

    ``output``: float [batch, classes]; ``targets``: int64 [batch], -1 unlabelled; ``weights``: float [batch], what each
    label counts. ``train.focal_gamma`` above 0 scales a class's loss by (1 - p)^gamma, p being the probability of the
    right class (Lin et al. 2017, "Focal loss for dense object detection").
    """
    smoothing, gamma = train.label_smoothing, train.focal_gamma
    if weights is None and gamma == 0:
        return F.cross_entropy(output, targets, ignore_index=-1, label_smoothing=smoothing, reduction="sum") / len(
            targets
        )
    losses = F.cross_entropy(output, targets, ignore_index=-1, label_smoothing=smoothing, reduction="none")
    if gamma:
        right = F.softmax(output, dim=1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
        losses = losses * (1 - right).clamp(min=1e-6) ** gamma
    return (losses if weights is None else losses * weights).sum() / len(targets)


def teacher_loss(output: Tensor, teacher: Tensor, targets: Tensor, head: Head, loss: Loss) -> Tensor:
    """The loss of the recipe's ``kind``. ``output``, ``teacher``: float [batch, classes]; ``targets``: as above."""
    match loss.kind:
        case "dkd":
            return dkd(output, teacher, targets, loss.temperature, loss.beta)
        case "dist":
            return dist(output, teacher, loss.temperature)
    return kd(output, teacher, loss.temperature)


def known_to(columns: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor | None]:
    """(targets among the ``columns`` that the teacher knows, the rows that it may teach: bool [batch]).

    Student and teacher are compared given that the class is one of the teacher's: a softmax over those alone, which
    moves no probability from or to the others. A row whose label is another class is not taught.
    """
    places = torch.full((len(head.labels),), -1, device=targets.device)
    places[columns] = torch.arange(len(columns), device=targets.device)
    among = places[targets.clamp(min=0)]
    foreign = (targets >= 0) & (among < 0)
    return torch.where(targets >= 0, among, targets), ~foreign


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network".

    KL divergence of the softened classes, times T^2 so that its gradient does not shrink with the temperature.
    ``student``, ``teacher``: float [batch, classes].
    """
    soft = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(F.log_softmax(student / temperature, dim=1), soft, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def dkd(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float, beta: float) -> Tensor:
    """Zhao et al. 2022, "Decoupled knowledge distillation": target class and the others apart, the latter times ``beta``.

    ``targets``: int64 [batch]; where -1 (unlabelled), the teacher's own class is the target. With ``beta`` equal to the
    teacher's probability of the other classes it is Hinton's loss again (their equation 7): that is small where the
    teacher is sure, and a large ``beta`` makes the student copy what the teacher thinks of the classes it rules out.
    The authors take 2 to 8 with CIFAR-100 and 0.5 with ImageNet.
    """
    target = torch.where(targets >= 0, targets, teacher.argmax(dim=1))[:, None]
    is_target = torch.zeros_like(teacher, dtype=torch.bool).scatter_(1, target, True)
    log_student, log_teacher = (F.log_softmax(x / temperature, dim=1) for x in (student, teacher))
    binary_student, binary_teacher = (_target_or_not(x, target) for x in (log_student, log_teacher))
    of_target = F.kl_div(binary_student, binary_teacher, reduction="batchmean", log_target=True)
    # The target is taken out of the softmax by a large negative logit, as the authors' equations ask.
    others_student, others_teacher = (
        F.log_softmax((x / temperature).masked_fill(is_target, -1e4), dim=1) for x in (student, teacher)
    )
    of_others = F.kl_div(others_student, others_teacher, reduction="batchmean", log_target=True)
    return (of_target + beta * of_others) * temperature**2


def _target_or_not(log_p: Tensor, target: Tensor) -> Tensor:
    """[batch, 2]: log probability of the target class and of all others together."""
    log_target = log_p.gather(1, target)
    others = torch.log1p(-log_target.exp().clamp(max=1 - 1e-6))
    return torch.cat([log_target, others], dim=1)


def dist(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Huang et al. 2022, "Knowledge distillation from a stronger teacher": Pearson correlation instead of equality.

    The mean of one minus the correlation within each sample's classes and within each class's samples, times T^2.
    """
    p, q = (F.softmax(x / temperature, dim=1) for x in (student, teacher))
    return (_one_minus_correlation(p, q) + _one_minus_correlation(p.T, q.T)) * temperature**2


def _one_minus_correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    return 1 - F.cosine_similarity(a, b, dim=1, eps=1e-8).mean()


def together(
    parts: list[HeadOutputs], weights: np.ndarray, *, confidence: bool, columns: np.ndarray, head: Head
) -> tuple[np.ndarray, np.ndarray]:
    """(logits float32 [batch, len(columns)], taught bool [batch]): the weighted mean of the teachers' probabilities.

    Probabilities and not logits are averaged (Hinton, Vinyals & Dean 2015, section 5 take either): the logits of
    teachers of different origin have different scales. ``confidence`` multiplies the weights, sample by sample, by
    exp(-entropy), the inverse of the number of classes that a teacher hesitates between, after Kwon et al. 2020,
    "Adaptive knowledge distillation based on entropy". One that knows only some of the classes splits the probability
    that the others, who know all, give to these classes (a specialist in Hinton's sense).
    """
    taught, width = np.stack([part.taught for part in parts]), len(head.labels)
    general = np.array([len(part.columns) == len(columns) for part in parts])
    p = np.zeros((len(parts), taught.shape[1], width))
    for number, part in enumerate(parts):
        p[number][:, part.columns] = torch.from_numpy(part.logits).double().softmax(dim=1).numpy()
    whole = mean_of(p[general], _weighed(p[general], taught[general], weights[general], confidence))
    somebody = taught[general].any(axis=0)
    for number, part in enumerate(parts):
        if general[number]:
            continue
        share = whole[:, part.columns].sum(axis=1, keepdims=True)
        p[number] = np.where(np.isin(np.arange(width), part.columns), p[number] * share, whole)
        taught[number] &= somebody
    mean = mean_of(p, _weighed(p, taught, weights, confidence))[:, columns]
    logits = np.log(np.clip(mean, FLOOR, 1.0)).astype(np.float32)
    return np.where(somebody[:, None], logits, np.float32(0)), somebody


def check_together(known: Sequence[np.ndarray], columns: np.ndarray) -> None:
    """Raise UsageError where no teacher knows all classes that the others know."""
    if not any(len(theirs) == len(columns) for theirs in known):
        raise UsageError(
            "no teacher knows all classes that the others know, so nothing says how likely the classes of one are against those of another",
            where="distill.teachers",
            todo="name one that knows them all",
        )


def _weighed(p: np.ndarray, taught: np.ndarray, weights: np.ndarray, confidence: bool) -> np.ndarray:
    """float [teachers, batch]: how much each one's ``p`` [teachers, batch, classes] counts; 0 where it has no output."""
    counted = weights[:, None] * taught
    if confidence:
        counted = counted * np.exp((p * np.log(np.maximum(p, 1e-12))).sum(axis=2))
    return counted
