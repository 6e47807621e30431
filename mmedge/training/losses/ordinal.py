"""Losses of grades in order: every threshold between two grades a binary problem, the grades above it its positives."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmedge.recipe import Loss, Train
from mmedge.tasks import Head
from mmedge.tasks.classification import FLOOR
from mmedge.training.losses import several
from mmedge.training.losses.multilabel import binary_kd
from mmedge.training.losses.several import HeadOutputs, mean_of_odds

known_to, check_together = several.known_to, several.check_together


def label_loss(output: Tensor, targets: Tensor, head: Head, train: Train, weights: Tensor | None) -> Tensor:
    """The cumulative logit loss over the labelled rows, divided by all: the mean over thresholds of the cross-entropy.

    McCullagh 1980, "Regression models for ordinal data"; as a sum of binary losses Niu et al. 2016, "Ordinal regression
    with multiple output CNN". ``output``: float [batch, grades - 1], of each threshold the logit of lying above it;
    ``targets``: int64 [batch], the grade from 0, -1 unlabelled; ``weights``: float [batch]. ``train.focal_gamma`` as
    in classification, threshold by threshold.
    """
    thresholds = torch.arange(output.shape[1], device=output.device)
    above = (targets[:, None] > thresholds).to(output.dtype)
    wanted = above * (1 - train.label_smoothing) + train.label_smoothing / 2
    each = F.binary_cross_entropy_with_logits(output, wanted, reduction="none")
    if train.focal_gamma:
        right = torch.where(above > 0.5, output.sigmoid(), (-output).sigmoid())
        each = each * (1 - right).clamp(min=1e-6) ** train.focal_gamma
    losses = each.mean(dim=1) * (targets >= 0)
    return (losses if weights is None else losses * weights).sum() / len(targets)


def teacher_loss(output: Tensor, teacher: Tensor, targets: Tensor, head: Head, loss: Loss) -> Tensor:
    """Binary distillation of every threshold. ``output``, ``teacher``: float [batch, grades - 1]."""
    return binary_kd(output, teacher, loss.temperature)


def together(
    parts: list[HeadOutputs], weights: np.ndarray, *, confidence: bool, columns: np.ndarray, head: Head
) -> tuple[np.ndarray, np.ndarray]:
    """(logits, taught) of several teachers: the mean of their probabilities of lying above each threshold."""
    return mean_of_odds(parts, weights, confidence=confidence, columns=columns, floor=FLOOR)
