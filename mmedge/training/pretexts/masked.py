"""Parts of a modality are hidden, and made again from the features of what is left, of all modalities together.

He et al. 2022, "Masked autoencoders are scalable vision learners", and of tokens Devlin et al. 2019, "BERT", for encoders
that give one vector: in place of their decoder over tokens there is a perceptron that is told the place. That features of
the other modalities help is as in Bachmann et al. 2022, "MultiMAE". Of a video the same places of all frames are hidden
(tubes: Tong et al. 2022, "VideoMAE"). Clouds, whose points have no places, are left whole and help.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.models.encoders.transformer import SPREAD
from mmedge.recipe import Model, Pretrain
from mmedge.recipe.pretraining import learned_of
from mmedge.spec import ModalitySpec
from mmedge.training.loop.batches import Batch
from mmedge.training.pretexts.encoding import encoded

# Of the perceptron that makes the parts again.
_WIDTH = 128


class Masked(nn.Module):
    """The mean over modalities of how far what is made again is from what was hidden."""

    # It hides parts of the inputs: features of the whole ones cannot stand for them.
    of_inputs = True

    def __init__(self, encoders: nn.ModuleDict, contract: Contract, section: Pretrain, model: Model) -> None:
        super().__init__()
        of = {name: contract.modalities[name] for name in learned_of(section.kind, contract.modalities)}
        features = model.embedding * len(contract.modalities)
        self._share = section.hidden
        self.parts = nn.ModuleDict({name: _Parts(spec, features, section.patch) for name, spec in of.items()})

    def forward(self, module: nn.Module, batch: Batch) -> Tensor:
        encoders: nn.ModuleDict = module.encoders  # type: ignore[assignment]
        names, features, hidden = list(encoders), [], {}
        for column, name in enumerate(names):
            x = batch.inputs[name]
            if name in self.parts:
                hidden[name] = self.parts[name].drawn(x, self._share)
                x = self.parts[name].without(x, hidden[name])
            features.append(encoded(encoders[name], x, batch.present[:, column]))
        joined = torch.cat(features, dim=1)
        losses = [
            self.parts[name].missed(joined, batch.inputs[name], mask & batch.present[:, names.index(name)][:, None])
            for name, mask in hidden.items()
        ]
        return torch.stack(losses).mean()


class _Parts(nn.Module):
    """A modality in parts: patches of a map, runs of a series, numbers of a table, tokens of a text."""

    def __init__(self, spec: ModalitySpec, features: int, patch: int) -> None:
        super().__init__()
        self.words, self.pad = (spec.tokens, spec.pad) if spec.dtype != "float32" else (None, 0)  # type: ignore[union-attr]
        shape = spec.shape if spec.dtype == "float32" else (math.prod(spec.shape),)
        along = shape[-2:] if len(shape) > 2 else shape[-1:] if shape else (1,)
        self.lead = math.prod(shape) // math.prod(along)
        self.sides = tuple(min(patch, size) if self.lead > 1 or len(along) > 1 else 1 for size in along)
        self.sizes = along
        self.grid = tuple(-(-size // side) for size, side in zip(along, self.sides))
        self.count, numbers = math.prod(self.grid), self.lead * math.prod(self.sides)
        self.places = nn.Parameter(torch.randn(self.count, _WIDTH) * SPREAD)
        self.given = nn.Linear(features, _WIDTH)
        self.make = nn.Sequential(
            nn.GELU(), nn.Linear(_WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, self.words or numbers)
        )

    def drawn(self, x: Tensor, share: float) -> Tensor:
        """bool [batch, parts]: the share of the parts that are hidden, at least one; of a text only words."""
        chance = torch.rand(len(x), self.count, device=x.device)
        if self.words is not None:
            chance = chance.masked_fill(x.reshape(len(x), -1) == self.pad, 2.0)
        most = max(1, round(share * self.count))
        hidden = chance <= chance.kthvalue(most, dim=1, keepdim=True).values
        return (chance < share) if self.words is not None else hidden

    def without(self, x: Tensor, hidden: Tensor) -> Tensor:
        """``x`` with the training mean in the hidden parts, and padding in place of hidden words."""
        if self.words is not None:
            return x.masked_fill(hidden.reshape(x.shape), self.pad)
        mask = hidden.reshape(len(x), *self.grid)
        for axis, side in enumerate(self.sides):
            mask = mask.repeat_interleave(side, dim=axis + 1).narrow(axis + 1, 0, self.sizes[axis])
        mask = mask.reshape(len(x), *(1,) * (x.dim() - mask.dim()), *mask.shape[1:])
        return x.masked_fill(mask, 0.0)

    def missed(self, features: Tensor, x: Tensor, hidden: Tensor) -> Tensor:
        """The mean over the hidden parts: of a word its negative log likelihood, of numbers the squared error."""
        if not hidden.any():
            return features.sum() * 0
        row, part = hidden.nonzero(as_tuple=True)
        made = self.make(self.given(features)[row] + self.places[part])
        if self.words is not None:
            return F.cross_entropy(made, x.reshape(len(x), -1)[row, part])
        return F.mse_loss(made, self._pieces(x)[row, part])

    def _pieces(self, x: Tensor) -> Tensor:
        """[batch, parts, numbers of a part]; what a border cuts is filled with zeros."""
        x = x.reshape(len(x), self.lead, *self.sizes)
        padding = [n for size, side in zip(self.sizes[::-1], self.sides[::-1]) for n in (0, -size % side)]
        x = F.pad(x, padding)
        for axis, side in enumerate(self.sides):
            x = x.unfold(axis + 2, side, side)
        along = len(self.sides)  # [batch, lead, *grid, *sides]
        order = (0, *range(2, 2 + along), 1, *range(2 + along, 2 + 2 * along))
        return x.permute(order).reshape(len(x), self.count, -1)
