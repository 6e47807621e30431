"""Losses of any number of labels a sample: every label a binary problem of its own."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmedge.recipe import Loss, Train
from mmedge.tasks import Head
from mmedge.tasks.classification import FLOOR
from mmedge.training.losses import several
from mmedge.training.losses.several import HeadOutputs, mean_of_odds

known_to, check_together = several.known_to, several.check_together


def label_loss(output: Tensor, targets: Tensor, head: Head, train: Train, weights: Tensor | None) -> Tensor:
    """The mean over labels of each one's binary cross-entropy, over the labelled rows and divided by all.

    ``output``: float [batch, labels]; ``targets``: float of 0 and 1, of the same shape, NaN unlabelled.
    """
    known = ~torch.isnan(targets)
    wanted = torch.where(known, targets, 0.0) * (1 - train.label_smoothing) + train.label_smoothing / 2
    each = F.binary_cross_entropy_with_logits(output, wanted, reduction="none")
    each = each if weights is None else each * weights[:, None]
    return (each * known).sum() / targets.numel()


def teacher_loss(output: Tensor, teacher: Tensor, targets: Tensor, head: Head, loss: Loss) -> Tensor:
    return binary_kd(output, teacher, loss.temperature)


def binary_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Yang et al. 2023, "Multi-label knowledge distillation": every label a binary problem of its own (their equation 2).

    The mean over labels of the KL divergence between softened Bernoulli distributions, times T^2. Labels do not share a
    softmax: several may be sure at once. ``student``, ``teacher``: float [batch, labels].
    """
    log_p, log_not_p = F.logsigmoid(teacher / temperature), F.logsigmoid(-teacher / temperature)
    log_q, log_not_q = F.logsigmoid(student / temperature), F.logsigmoid(-student / temperature)
    divergence = log_p.exp() * (log_p - log_q) + log_not_p.exp() * (log_not_p - log_not_q)
    return divergence.mean() * temperature**2


def together(
    parts: list[HeadOutputs], weights: np.ndarray, *, confidence: bool, columns: np.ndarray, head: Head
) -> tuple[np.ndarray, np.ndarray]:
    """(logits, taught) of several teachers: each label's probability is the mean over those that know it."""
    return mean_of_odds(parts, weights, confidence=confidence, columns=columns, floor=FLOOR)
