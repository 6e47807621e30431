"""Losses of arrays: distances in standard units, over the frames that there are; of the length its own distance beside it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmedge.recipe import Loss, Train
from mmedge.tasks import Head
from mmedge.training.losses import several

known_to, check_together, together = several.known_to, several.check_together, several.mean_together

# A length's distance is counted in this share of the most frames.
_LENGTHS = 0.25


def label_loss(output: Tensor, targets: Tensor, head: Head, train: Train, weights: Tensor | None) -> Tensor:
    """The mean distance of each row's known numbers, the mean over rows; unlabelled ones count as 0.

    ``output``, ``targets``: float [batch, W] in the targets' own unit, targets NaN behind their end and where unlabelled;
    ``weights``: float [batch], what each label counts.
    """
    known = ~torch.isnan(targets)
    each = _distance(output, torch.where(known, targets, 0.0), known, head)
    return (each if weights is None else each * weights).sum() / len(output)


def teacher_loss(output: Tensor, teacher: Tensor, targets: Tensor, head: Head, loss: Loss) -> Tensor:
    """The same distance to the teacher's array, over the frames of the target; where it is not known, those of the teacher's own length."""
    known = ~torch.isnan(targets)
    frames = torch.arange(head.shape[0], device=output.device)
    if head.varies:
        own = frames < teacher[:, -1:].round().clamp(1, head.shape[0])
    else:
        own = torch.ones_like(teacher[:, : head.shape[0]], dtype=torch.bool)
    own = own.repeat_interleave(math.prod(head.shape[1:]), dim=1)
    own = torch.cat([own, torch.ones_like(teacher[:, :1], dtype=torch.bool)], dim=1)[:, : output.shape[1]]
    return _distance(output, teacher, torch.where(known.any(dim=1, keepdim=True), known, own), head).mean()


def _distance(output: Tensor, other: Tensor, known: Tensor, head: Head) -> Tensor:
    """float [batch]: of each row the mean over its known numbers, and of its length."""
    count = math.prod(head.shape)
    unit = output.new_tensor(head.std).repeat(head.shape[0])
    apart = _size((output - other)[:, :count] / unit, head) * known[:, :count]
    found = apart.sum(dim=1) / known[:, :count].sum(dim=1).clamp(min=1)
    if head.varies:
        missed = (output - other)[:, -1] / (_LENGTHS * head.shape[0])
        found = found + _size(missed, head) * known[:, -1]
    return found


def _size(apart: Tensor, head: Head) -> Tensor:
    return apart.abs() if head.distance == "l1" else apart**2
