"""The built-in network of several towers: an encoder a modality, a projection a tower, vectors in one space."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge.models.fusion import repeated
from mmedge.recipe import Model
from mmedge.tasks import Head

# The temperature that training begins with, and the lowest that it may come to (Radford et al. 2021).
_FIRST, _LOWEST = 0.07, 0.01
# Of a vector that is divided by its length; torch's own 1e-12 is 0 in FP16.
_SHORTEST = 2.0**-13


class Vectors(nn.Module):
    """What towers give as vectors of one length, exp(s / 2) of a learned s, and zero where all that a tower sees is absent.

    ``sees``: the columns of ``present`` of each tower. ``learned`` False: as long as they are given, by a network that
    has learnt its temperature elsewhere.
    """

    nothing: Tensor

    def __init__(self, sees: Sequence[Sequence[int]], dimensions: int, *, learned: bool = True) -> None:
        super().__init__()
        self.sees = [tuple(columns) for columns in sees]
        self.log_scale = nn.Parameter(torch.tensor(-math.log(_FIRST))) if learned else None
        self.register_buffer("nothing", torch.zeros(dimensions), persistent=False)

    def forward(self, parts: Sequence[Tensor], present: Tensor) -> Tensor:
        """[batch, dimensions] of each tower, bool [batch, modalities] -> [batch, towers * dimensions]."""
        found = []
        for part, (first, *rest) in zip(parts, self.sees, strict=True):
            some = present[:, first : first + 1]
            for column in rest:
                some = some | present[:, column : column + 1]
            if self.log_scale is not None:
                length = torch.exp(self.log_scale.clamp(max=-math.log(_LOWEST)) / 2)
                part = F.normalize(part, dim=1, eps=_SHORTEST) * length
            found.append(torch.where(some, part, self.nothing))
        return torch.cat(found, dim=1)


def columns_of(head: Head, modalities: Collection[str]) -> list[list[int]]:
    """The columns of ``present`` that each tower of a head sees. ``modalities``: in the contract's order."""
    names = list(modalities)
    return [[names.index(name) for name in sees] for sees in head.towers.values()]


class TowerNet(nn.Module):
    """Towers into one space (Radford et al. 2021, "Learning transferable visual models from natural language supervision").

    ``forward(**{modality: tensor}, present: bool [batch, modalities]) -> {head: float32 [batch, towers * dimensions]}``,
    the ``Vectors`` of the towers in their order, whose learned s is the log of the inverse temperature. A tower of
    several modalities has a learned vector in place of one that is absent, as ``FusionNet`` has. In training ``present``
    may be [batch, k, modalities]: k outputs a sample.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], name: str, head: Head, model: Model) -> None:
        super().__init__()
        self.modalities, self.head = tuple(encoders), name
        self.sees = dict(head.towers)
        self.encoders = nn.ModuleDict(encoders)
        joined = [name for names in self.sees.values() if len(names) > 1 for name in names]
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(model.embedding)) for name in joined})
        self.towers = nn.ModuleDict(
            {tower: _projection(len(names) * model.embedding, model) for tower, names in self.sees.items()}
        )
        self.vectors = Vectors(columns_of(head, encoders), model.dimensions)

    def forward(self, present: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        encoded = {name: self.encoders[name](inputs[name]) for name in self.modalities}
        if present.dim() == 3:
            encoded = {name: repeated(x, present.shape[1]) for name, x in encoded.items()}
            present = present.flatten(0, 1)
        for index, name in enumerate(self.modalities):
            if name in self.absent:
                encoded[name] = torch.where(present[:, index : index + 1], encoded[name], self.absent[name])
        seen = {tower: [encoded[name] for name in names] for tower, names in self.sees.items()}
        parts = [
            self.towers[tower](of_tower[0] if len(of_tower) == 1 else torch.cat(of_tower, dim=1))
            for tower, of_tower in seen.items()
        ]
        return {self.head: self.vectors(parts, present)}


def _projection(features: int, model: Model) -> nn.Module:
    """[batch, features] -> [batch, dimensions]."""
    return nn.Sequential(
        nn.Linear(features, model.hidden),
        nn.ReLU(),
        nn.Dropout(model.dropout),
        nn.Linear(model.hidden, model.dimensions),
    )
