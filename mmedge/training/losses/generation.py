"""Losses of texts, token by token, each token after those that should stand before it (teacher forcing)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmedge.recipe import Loss, Train
from mmedge.tasks import Head
from mmedge.training.losses import several

known_to = several.known_to
together, check_together = several.apart("texts of several teachers have no mean", "name one teacher; pick the best")

# What stands behind a text's end in its targets, and where no text is known.
_NOTHING = 0


def label_loss(output: Tensor, targets: Tensor, head: Head, train: Train, weights: Tensor | None) -> Tensor:
    """Cross-entropy of the tokens, the mean over a text's and then over the rows; rows without a text count as 0.

    ``output``: float [batch, steps, vocabulary]; ``targets``: int64 [batch, steps], -1 first where the text is not known.
    With label smoothing (Szegedy et al. 2016) as of classes.
    """
    taught = _taught(targets)
    each = F.cross_entropy(
        output.transpose(1, 2), targets.clamp(min=0), reduction="none", label_smoothing=train.label_smoothing
    )
    return _over_rows(each, taught)


def teacher_loss(output: Tensor, teacher: Tensor, targets: Tensor, head: Head, loss: Loss) -> Tensor:
    """Word-level distillation: the divergence of the two networks' next tokens, after the tokens of the same text.

    Kim & Rush 2016, "Sequence-level knowledge distillation", section 3.1, with the temperature of Hinton et al. 2015 and its
    square as a factor. ``output``, ``teacher``: float [batch, steps, vocabulary]. Rows without a text are not taught: there
    is nothing that both could stand behind.
    """
    t = loss.temperature
    divergence = F.kl_div(
        F.log_softmax(output / t, dim=2), F.log_softmax(teacher / t, dim=2), reduction="none", log_target=True
    )
    return _over_rows(divergence.sum(dim=2) * t * t, _taught(targets))


def _taught(targets: Tensor) -> Tensor:
    """bool [batch, steps]: where a token stands."""
    return targets > _NOTHING


def _over_rows(each: Tensor, taught: Tensor) -> Tensor:
    """The mean over rows of the mean over each row's taught tokens."""
    return ((each * taught).sum(dim=1) / taught.sum(dim=1).clamp(min=1)).mean()
