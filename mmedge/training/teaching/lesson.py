"""How a teacher learns: from labels, after what it learns without them, network by network where it is several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.models.ensemble import members_of
from mmedge.recipe import Model, Pretrain, Train
from mmedge.training.context import Context
from mmedge.training.loop.batches import Training
from mmedge.training.loop.fit import Fitted, fit, joined
from mmedge.training.objectives import Supervised
from mmedge.training.pretexts import pretrained


@dataclass(frozen=True)
class Lesson:
    """What a teacher is trained on. ``model``: the section that it was built by; ``sharded``: as of ``Training``."""

    contract: Contract
    samples: Samples
    validation: Samples
    model: Model
    context: Context
    sharded: bool = False

    def taught(self, module: nn.Module, train: Train, name: str, first: Pretrain | None) -> Fitted:
        """Train ``module`` in place on the labels, after ``first`` where it is given. ``name``: of the state and the log.

        The networks of an ensemble are trained one after another, each in an order of its own.
        """
        members = members_of(module)
        own = [f"{name}-{number}" if number else name for number in range(len(members))]
        return joined([self._one(each, train, (own[n], n), first) for n, each in enumerate(members)])

    def _one(self, module: nn.Module, train: Train, place: tuple[str, int], first: Pretrain | None) -> Fitted:
        (name, number), context, seed = place, self.context, self.context.recipe.seed
        labelled = np.flatnonzero(self.samples.labelled)
        training = Training(
            self.contract,
            self.samples,
            self.validation,
            train,
            labelled,
            seed + number,
            seed,
            reading=context.dataset.reading,
            sharded=self.sharded,
        )
        if first:
            state = context.work / f"{name}-pretrained.safetensors"
            pretrained(module, first, training, self.model, state, context)
        return fit(
            module,
            Supervised(self.contract, train),
            training,
            state=context.work / f"{name}.safetensors",
            task=f"training the teacher{'' if name == 'teacher' else f', {name}'}",
            progress=context.progress,
            log=context.log(name),
        )
