"""The control for a cross-modal gain: a teacher that knows no more modalities than its student."""

from __future__ import annotations

import numpy as np
import torch

from mmedge.artifact import sha256_of
from mmedge.errors import UsageError
from mmedge.recipe import Distill, Hint, Loss
from mmedge.spec import Contract
from mmedge.training.caching import Asked
from mmedge.training.context import Context
from mmedge.training.fit import fit
from mmedge.training.objectives import supervised
from mmedge.training.sources import ModuleSource, Shown
from mmedge.training.teachers import Teacher


def takes_others(teacher: Contract, student: Contract) -> bool:
    """Whether the teacher takes a modality that the student does not."""
    return bool(set(teacher.modalities) - set(student.modalities))


def same_modality_teacher(config: Distill, student: Contract, context: Context) -> tuple[Teacher, Loss]:
    """The recipe's teacher network, trained on the same data with the student's modalities alone; and what it can teach.

    The built-in network is built for them; a module of the user's own is shown nothing else. Hints at layers that such a
    teacher does not have are left out of the loss. Raises UsageError where the teacher was not trained here.
    """
    section, recipe = context.recipe.teacher, context.recipe
    if section.train is None or not section.trained_here:
        raise UsageError(
            "a teacher that is taken as it is cannot be trained anew for the student's modalities",
            where="distill.controls.same_modality_teacher",
            todo="remove the key, or train the teacher in this recipe",
        )
    shown = tuple(student.modalities)
    contract = context.contract(section.model) if section.model.factory else context.dataset.contract.only(shown)
    if not set(shown) & set(contract.modalities):
        raise UsageError(
            "the teacher's network takes none of the student's modalities",
            where="distill.controls.same_modality_teacher",
        )
    train, validation = (
        split.shown(shown).only(tuple(contract.modalities))
        for split in (context.dataset.train, context.dataset.validation)
    )
    torch.manual_seed(recipe.seed)
    module = context.build(section.model, contract)
    state = context.work / "same-modality-teacher.safetensors"
    fit(
        module,
        supervised(contract, section.train),
        contract,
        train,
        validation,
        section.train,
        seed=recipe.seed,
        view_seed=recipe.seed,
        usable=np.flatnonzero(train.labelled),
        state=state,
        task="control: a teacher of the student's modalities",
        progress=context.progress,
        logs=context.logs / "same-modality-teacher",
    )
    layers = {name.removeprefix("inner.") for name, _ in module.named_modules()}
    hints: tuple[Hint, ...] = tuple(hint for hint in config.loss.hints if hint.teacher.removeprefix("inner.") in layers)
    source = ModuleSource(
        module,
        contract,
        Shown(train, config.train.augment, recipe.seed),
        hints,
        key=f"{sha256_of(state)} {context.dataset.sha256}",
        who="the teacher of the student's modalities",
    )
    folder = context.work.parent / "teacher-outputs"
    teacher = Teacher(
        source,
        len(train),
        config.train.views,
        asked=Asked.by(config.train, config.controls.seeds, config.cache),
        hints=hints,
        folder=folder,
        progress=context.progress,
    )
    return teacher, config.loss.model_copy(update={"hints": hints})
