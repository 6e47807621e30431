"""Which modalities are of one sample: each two against the others of the batch (Radford et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.models.towers import Vectors
from mmedge.recipe import Model, Pretrain, Train
from mmedge.tasks import Head
from mmedge.training.loop.batches import Batch
from mmedge.training.losses import retrieval
from mmedge.training.pretexts.encoding import encoded


class Contrastive(nn.Module):
    """A projection a modality into one space, and the loss of a retrieval of the sample's other modalities."""

    def __init__(self, encoders: nn.ModuleDict, contract: Contract, section: Pretrain, model: Model) -> None:
        super().__init__()
        names = list(contract.modalities)
        self.project = nn.ModuleDict({name: nn.Linear(model.embedding, section.dimensions) for name in names})
        self.vectors = Vectors([[column] for column in range(len(names))], section.dimensions)
        towers = {name: (name,) for name in names}
        self._head = Head.model_validate({"task": "retrieval", "labels": [], "towers": towers})
        self._train = Train()

    def forward(self, module: nn.Module, batch: Batch) -> Tensor:
        encoders: nn.ModuleDict = module.encoders  # type: ignore[assignment]
        there = batch.present.T
        features = [encoded(encoders[name], batch.inputs[name], here) for name, here in zip(self.project, there)]
        parts = [project(x) for project, x in zip(self.project.values(), features)]
        output = self.vectors(parts, batch.present)
        things = torch.as_tensor(batch.index, device=output.device)
        # Each sample is a thing of its own, and kin to no other.
        return retrieval.label_loss(output, torch.stack([things, things], dim=1), self._head, self._train, None)
