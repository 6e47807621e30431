"""How features of the modalities are joined, one file each, and the one table of them.

A fusion takes a float32 [batch, embedding] of each modality, the learned stand-in where one is absent, to [batch, hidden]; those
of ``tokens`` take tokens of each. What has ``by_weights`` takes weights of the recipe's own, too: ``given``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from mmedge.models.fusions import attention, bilinear, concat, decision, early, gated, stacking, summed, tokens

# {kind: (number of modalities, embedding, hidden) -> a fresh module}.
FUSIONS: dict[str, Callable[..., nn.Module]] = {
    "concat": concat.build,
    "sum": summed.Sum,
    "gated": gated.Gated,
    "bilinear": bilinear.LowRank,
    "attention": attention.Attended,
    "bottleneck": tokens.Bottleneck,
    "tokens": tokens.Joint,
    "average": decision.Decision,
    "votes": partial(decision.Decision, learned=True),
    "stacking": stacking.Stacked,
    "early": early.Early,
}
