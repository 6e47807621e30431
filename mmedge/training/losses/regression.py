"""Losses of numbers: squared errors in standard units of the training targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmedge.recipe import Loss, Train
from mmedge.tasks import Head
from mmedge.training.losses import several

known_to, check_together, together = several.known_to, several.check_together, several.mean_together


def label_loss(output: Tensor, targets: Tensor, head: Head, train: Train, weights: Tensor | None) -> Tensor:
    """The squared error over the values that are known, divided by all.

    ``output``: float [batch, W], ``targets``: float [batch] or [batch, W], both in the targets' own units, NaN unlabelled;
    standard units make the loss's parts weigh the same whatever those are.
    """
    targets = targets.reshape(output.shape)
    known = ~torch.isnan(targets)
    errors = (_standard(output, head) - _standard(torch.where(known, targets, 0.0), head)) ** 2
    errors = errors if weights is None else errors * weights.reshape(-1, *[1] * (errors.dim() - 1))
    return (errors * known).sum() / targets.numel()


def teacher_loss(output: Tensor, teacher: Tensor, targets: Tensor, head: Head, loss: Loss) -> Tensor:
    """The squared error to the teacher's values. ``output``, ``teacher``: float [batch, W]."""
    return F.mse_loss(_standard(output, head), _standard(teacher, head))


def _standard(x: Tensor, head: Head) -> Tensor:
    return (x - x.new_tensor(head.mean)) / x.new_tensor(head.std)
