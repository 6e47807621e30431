"""What a student can learn from a teacher's layers: pure functions of tensors, each with its paper, each a scalar mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Numbers that a step of the angles' loss holds at a time, of each side.
_MOST_ANGLES = 1 << 23


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
