"""Linear layers and embeddings as two of lower rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def factor(module: nn.Module, ranks: Mapping[str, int]) -> dict[str, nn.Sequential]:
    """Put two layers with fresh weights in the place of each {layer: rank}, in place; {layer: the two}.

    What an ``nn.Linear`` or ``nn.Embedding`` gives is then first ``rank`` values and, by an ``nn.Linear`` behind, as many as before.
    """
    made = {name: _pair(module.get_submodule(name), rank) for name, rank in ranks.items()}
    for name, pair in made.items():
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, pair)
    return made


def _pair(layer: Any, rank: int) -> nn.Sequential:
    first: nn.Module
    if isinstance(layer, nn.Embedding):
        first = nn.Embedding(layer.num_embeddings, rank, layer.padding_idx)
        second = nn.Linear(rank, layer.embedding_dim, bias=False)
    else:
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    return nn.Sequential(first, second).to(layer.weight).train(layer.training)
