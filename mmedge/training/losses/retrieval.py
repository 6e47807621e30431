"""Losses of vectors in one space: pairs of a batch against the rest of it, and a teacher's likenesses of its items."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmedge.recipe import Loss, Train
from mmedge.tasks import Head
from mmedge.training.losses import several
from mmedge.training.losses.classification import kd

known_to = several.known_to
together, check_together = several.apart(
    "vectors of several teachers stand in spaces of their own, and have no mean",
    "name one teacher; pick the best, or distil one after another",
)

# Stands for what is not compared: exp of it is 0 in every precision that trains.
_NEVER = -1e4


def label_loss(output: Tensor, targets: Tensor, head: Head, train: Train, weights: Tensor | None) -> Tensor:
    """The contrast of each row's items with the batch's, the mean over rows and directions; rows that lack a side count as 0.

    ``output``: float [batch, towers * dimensions], whose products are cosines over the learned temperature; ``targets``:
    int64 [batch, 2], thing (-1: not known) and kin. Rows of one thing are right for each other, rows of one kin are not
    compared.
    """
    vectors = output.unflatten(1, (len(head.towers), -1))
    there, known = vectors.detach().abs().sum(dim=2) > 0, targets[:, 0] >= 0
    contrast = _sigmoid if train.contrast == "sigmoid" else _softmax
    each = []
    for asks, sought in permutations(range(len(head.towers)), 2):
        rows = known & there[:, asks] & there[:, sought]
        things, kin = targets[rows].T
        right = things[:, None] == things
        wrong = ~right & (kin[:, None] != kin)
        each.append(contrast(vectors[rows, asks] @ vectors[rows, sought].T, right, wrong))
    return torch.stack(each).mean() / len(output)


def _softmax(likeness: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """The sum over rows of InfoNCE (van den Oord, Li & Vinyals 2018), of several right ones the mean, each against the wrong alone.

    Right ones do not push each other away, as in Khosla et al. 2020, "Supervised contrastive learning", they would.
    """
    others = likeness.masked_fill(~wrong, _NEVER).logsumexp(dim=1, keepdim=True)
    missed = F.softplus(others - likeness) * right
    return (missed.sum(dim=1) / right.sum(dim=1).clamp(min=1)).sum()


def _sigmoid(likeness: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """The sum over all two of the log loss of being a pair (Zhai et al. 2023, "Sigmoid loss for language image pre-training").

    The bias, which they learn from -10 on, is the log odds of a pair in the batch: what it has to make up for.
    """
    odds = right.sum().clamp(min=1).log() - wrong.sum().clamp(min=1).log()
    losses = F.softplus(torch.where(right, -1.0, 1.0) * (likeness + odds))
    return (losses * (right | wrong)).sum()


def teacher_loss(output: Tensor, teacher: Tensor, targets: Tensor, head: Head, loss: Loss) -> Tensor:
    """Affinity mimicking: the student ranks the items of the batch as the teacher does, whatever the widths of their spaces.

    Wu et al. 2023, "TinyCLIP", section 3.1, and as contrastive relational distillation Yang et al. 2024, "CLIP-KD": the
    divergence of the two softmaxes over each row's likenesses, both ways, here with Hinton's temperature on top of the
    learned ones. ``output``, ``teacher``: float [batch, towers * dimensions] of each one's own dimensions. No pair need
    be known. What else these papers do is in the hints: a tower's vectors as the teacher's (``features``), and told
    among those of the teacher's other tower (``contrastive``, "interactive contrastive learning").
    """
    found = []
    for ours, theirs in _likenesses(output, teacher, len(head.towers)):
        found.append(kd(ours, theirs, loss.temperature))
    return torch.stack(found).mean() if found else output.sum() * 0


def _likenesses(output: Tensor, teacher: Tensor, towers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(the student's, the teacher's) [n, n] of the rows that both have both sides of, of each direction."""
    ours, theirs = (x.unflatten(1, (towers, -1)) for x in (output, teacher))
    there = (ours.detach().abs().sum(dim=2) > 0) & (theirs.abs().sum(dim=2) > 0)
    for asks, sought in permutations(range(towers), 2):
        rows = there[:, asks] & there[:, sought]
        if rows.any():
            yield tuple(x[rows, asks] @ x[rows, sought].T for x in (ours, theirs))  # type: ignore[misc]
