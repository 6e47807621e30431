"""What a student can learn from a teacher: pure functions of tensors, each with its paper, each a scalar mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Numbers that a step of the angles' loss holds at a time, of each side.
_MOST_ANGLES = 1 << 23


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network".

    KL divergence of the softened classes, times T^2 so that its gradient does not shrink with the temperature.
    ``student``, ``teacher``: float [batch, classes].
    """
    soft = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(F.log_softmax(student / temperature, dim=1), soft, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def binary_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Yang et al. 2023, "Multi-label knowledge distillation": every label a binary problem of its own (their equation 2).

    The mean over labels of the KL divergence between softened Bernoulli distributions, times T^2. Labels do not share a
    softmax: several may be sure at once. ``student``, ``teacher``: float [batch, labels].
    """
    log_p, log_not_p = F.logsigmoid(teacher / temperature), F.logsigmoid(-teacher / temperature)
    log_q, log_not_q = F.logsigmoid(student / temperature), F.logsigmoid(-student / temperature)
    divergence = log_p.exp() * (log_p - log_q) + log_not_p.exp() * (log_not_p - log_not_q)
    return divergence.mean() * temperature**2


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


def logit_loss(
    student: Tensor, teacher: Tensor, targets: Tensor, *, kind: str, temperature: float, beta: float, task: str
) -> Tensor:
    """The logit loss of a recipe's ``kind``, and its forms for the tasks that know ``kd`` alone.

    For regression, the squared error to the teacher's value. ``beta``: of ``dkd``.
    """
    if task == "regression":
        return F.mse_loss(student, teacher)
    if task == "multilabel":
        return binary_kd(student, teacher, temperature)
    match kind:
        case "dkd":
            return dkd(student, teacher, targets, temperature, beta)
        case "dist":
            return dist(student, teacher, temperature)
    return kd(student, teacher, temperature)


def features(projected: Tensor, teacher: Tensor) -> Tensor:
    """Romero et al. 2015, "FitNets": the student's projected hint against the teacher's, each scaled to unit length.

    Unit length makes the weight independent of the layers' scale. ``projected``, ``teacher``: float [batch, f].
    """
    return (F.normalize(projected, dim=1) - F.normalize(teacher, dim=1)).square().sum(dim=1).mean()


def attention_map(activation: Tensor, grid: int = 4) -> Tensor:
    """Zagoruyko & Komodakis 2017, "Paying more attention to attention": where a layer looks, [batch, grid * grid].

    The mean over channels of the squared activation [batch, channels, height, width], brought to one grid so that
    teacher and student may have maps of different sizes; [batch, channels, length] is a map of one column. A layer
    without a map ([batch, f]) is its own attention.
    """
    if activation.dim() == 3:
        activation = activation[..., None]
    if activation.dim() > 4:
        activation = activation.flatten(3)
    if activation.dim() == 4:
        activation = F.adaptive_avg_pool2d(activation.square().mean(dim=1, keepdim=True), grid)
    return F.normalize(activation.flatten(1), dim=1)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two attention maps [batch, grid * grid]."""
    return (student - teacher).square().sum(dim=1).mean()


def relations(student: Tensor, teacher: Tensor) -> Tensor:
    """Park et al. 2019, "Relational knowledge distillation": the distances and angles between a batch's samples.

    ``student`` [batch, f], ``teacher`` [batch, g]: widths may differ, since only relations are compared. Distances have
    weight 1 and angles 2, as in the paper; both with the Huber loss.
    """
    return F.smooth_l1_loss(_distances(student), _distances(teacher)) + 2 * _angle_loss(student, teacher)


def _angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean Huber loss of the batch^3 angles, of so many samples at a time that memory does not grow with the batch.

    Where that is not all of them, the angles are not kept for the gradient but computed again (Chen et al. 2016,
    "Training deep nets with sublinear memory cost").
    """
    count = len(student)
    at_a_time = max(1, _MOST_ANGLES // (count * max(count, student.shape[1], teacher.shape[1])))
    if at_a_time >= count:
        return F.smooth_l1_loss(_angles(student, student), _angles(teacher, teacher))
    parts = [
        checkpoint(_angle_sum, student, teacher, start, at_a_time, use_reentrant=False, preserve_rng_state=False)
        for start in range(0, count, at_a_time)
    ]
    return torch.stack(parts).sum() / count**3


def _angle_sum(student: Tensor, teacher: Tensor, start: int, count: int) -> Tensor:
    ours, theirs = (_angles(x, x[start : start + count]) for x in (student, teacher))
    return F.smooth_l1_loss(ours, theirs, reduction="sum")


def _distances(x: Tensor) -> Tensor:
    """[batch, batch]: distances over their mean."""
    squared = (x.square().sum(1)[:, None] + x.square().sum(1)[None] - 2 * x @ x.T).clamp(min=1e-12)
    away = squared.sqrt() * (1 - torch.eye(len(x), device=x.device))
    return away / away.sum().clamp(min=1e-12) * (len(x) * (len(x) - 1))


def _angles(x: Tensor, at: Tensor) -> Tensor:
    """[len(at), batch, batch]: cosine of the angle at sample i of ``at`` between samples j and k of ``x``."""
    directions = F.normalize(x[None] - at[:, None], dim=2)
    return torch.bmm(directions, directions.transpose(1, 2))


def contrastive(student: Tensor, teacher: Tensor, temperature: float = 0.1) -> Tensor:
    """InfoNCE (van den Oord et al. 2018; for distillation Tian et al. 2020): know one's own teacher among a batch's.

    ``student``, ``teacher``: float [batch, f] in one space. Aligns a student's modality with the teacher's embedding of
    another, without labels.
    """
    likeness = F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).T / temperature
    own = torch.arange(len(student), device=student.device)
    return F.cross_entropy(likeness, own)
