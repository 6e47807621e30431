"""Losses: pure functions of tensors. Each names its source and returns the mean over the batch (a scalar)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def label_loss(
    output: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    """Cross-entropy (int64 targets) or squared error (float targets) over the labelled samples of a batch.

    ``output``: float [batch, outputs]; ``targets``: int64 [batch], -1 unlabelled, or float [batch], NaN unlabelled; or
    float [batch, outputs] of 0 and 1, NaN unlabelled: the mean over labels of each one's binary cross-entropy. The
    sum over labelled samples is divided by the whole batch, so that a few labels do not outweigh many soft targets.
    ``weights``: float [batch], what each label counts. ``gamma`` above 0 scales a class's loss by (1 - p)^gamma, p
    being the probability of the right class (Lin et al. 2017, "Focal loss for dense object detection").
    """
    if targets.dim() == 2:
        known = ~torch.isnan(targets)
        wanted = torch.where(known, targets, 0.0) * (1 - smoothing) + smoothing / 2
        each = F.binary_cross_entropy_with_logits(output, wanted, reduction="none")
        return (each * known).sum() / targets.numel()
    if targets.is_floating_point():
        known = ~torch.isnan(targets)
        errors = (output[:, 0] - torch.where(known, targets, 0.0)) ** 2
        return (errors * known).sum() / len(targets)
    if weights is None and gamma == 0:
        return F.cross_entropy(output, targets, ignore_index=-1, label_smoothing=smoothing, reduction="sum") / len(
            targets
        )
    losses = F.cross_entropy(output, targets, ignore_index=-1, label_smoothing=smoothing, reduction="none")
    if gamma:
        right = F.softmax(output, dim=1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
        losses = losses * (1 - right).clamp(min=1e-6) ** gamma
    return (losses if weights is None else losses * weights).sum() / len(targets)
