"""Students that differ in one thing: what teaches them, or which modalities they see. All of them go through one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.measure.quality import SubsetOutputs, graph_predictor, module_run, subset_outputs
from mmedge.recipe import Model, Pretrain, Train
from mmedge.recipe.pretraining import learnable
from mmedge.training.context import Context
from mmedge.training.loop.batches import Training
from mmedge.training.loop.fit import Fitted, Objective, fit
from mmedge.training.pretexts import pretrained


@dataclass(frozen=True)
class Variant:
    """One way to make a student. ``objective(student)`` is what it learns from; ``usable``: int64 rows that it may draw.

    ``title``: what it is, for the progress line. ``subset``: the modalities that ``samples`` and ``validation`` hold for it,
    where these are not all that it takes; ``noise``: of students that share a budget of privacy; ``pretrain``: what it learns
    first, of the same samples in all variants of a subset that have it; ``start(student)``: gives it the weights that it
    begins with, where these are not fresh ones.
    """

    name: str
    title: str
    objective: Callable[[nn.Module], Objective]
    samples: Samples
    validation: Samples
    usable: np.ndarray
    train: Train
    noise: float | None = None
    subset: tuple[str, ...] | None = None
    pretrain: Pretrain | None = None
    start: Callable[[nn.Module], None] = lambda student: None

    def alone(self, chosen: tuple[str, ...], contract: Contract) -> Variant:
        """The same for one subset of modalities and no other: it never sees another, and none of it is dropped.

        What it learns first is of them alone, and left out where nothing can be learned of these.
        """
        samples = self.samples.masked_to(chosen)
        having = np.asarray(samples.present[:, [name in chosen for name in samples.inputs]].all(axis=1))
        return replace(
            self,
            name=f"alone-{'+'.join(chosen)}",
            title=f"control for {'+'.join(chosen)} alone",
            samples=samples,
            validation=self.validation.masked_to(chosen),
            usable=self.usable[having[self.usable]],
            train=self.train.model_copy(update={"modality_dropout": 0.0}),
            subset=chosen,
            pretrain=learnable(self.pretrain, {name: contract.modalities[name] for name in chosen}),
        )


@dataclass(frozen=True)
class Student:
    """A trained student and how its training went."""

    module: nn.Module
    fitted: Fitted

    @property
    def selection(self) -> float:
        """The best epoch's figure on validation."""
        return max(epoch["selection"] for epoch in self.fitted.history)

    def outputs(self, contract: Contract, samples: Samples) -> SubsetOutputs:
        """What it gives for every subset of modalities: see ``subset_outputs``."""
        return subset_outputs(contract, samples, graph_predictor(module_run(self.module), contract, samples))


def train_student(variant: Variant, model: Model, contract: Contract, context: Context, number: int) -> Student:
    """The variant's student of the recipe's seed plus ``number``; all variants of a number start from the same weights."""
    seed = context.recipe.seed + number
    torch.manual_seed(seed)
    module = context.build(model, contract)
    variant.start(module)
    training = Training(
        contract,
        variant.samples,
        variant.validation,
        variant.train,
        variant.usable,
        seed,
        context.recipe.seed,
        variant.noise,
        context.dataset.reading,
    )
    if variant.pretrain:
        of = "+".join((*(variant.subset or ()), str(number)))
        state = context.work / f"pretrained-{of}.safetensors"  # one for all variants of a number that see the same
        pretrained(module, variant.pretrain, training, model, state, context)
        torch.manual_seed(seed)
    fitted = fit(
        module,
        variant.objective(module),
        training,
        state=context.work / f"{variant.name}-{number}.safetensors",
        task=f"{variant.title}, seed {number + 1}",
        progress=context.progress,
        log=context.log(f"{variant.name}-{number}"),
    )
    return Student(module, fitted)
