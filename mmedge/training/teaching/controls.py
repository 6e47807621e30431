"""The control for a cross-modal gain: a teacher that knows no more modalities than its student."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmedge.artifact import sha256_of
from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.recipe import Distill, Hint, Loss
from mmedge.training.context import Context
from mmedge.training.loop import processes
from mmedge.training.objectives import Supervised
from mmedge.training.teaching.layers import layer_of
from mmedge.training.teaching.sources import ModuleSource
from mmedge.training.teaching.students import Variant, train_student
from mmedge.training.teaching.taught import TeachingSplit, teacher_from
from mmedge.training.teaching.teachers import Teacher


def takes_others(teacher: Contract, student: Contract) -> bool:
    """Whether the teacher takes a modality that the student does not."""
    return bool(set(teacher.modalities) - set(student.modalities))


def same_modality_teacher(config: Distill, student: Contract, context: Context) -> tuple[Teacher, Loss]:
    """The recipe's teacher network, trained on the same data with the student's modalities alone; and what it can teach.

    The built-in network is built for them; a module of the user's own is shown nothing else. Hints at layers that such
    a teacher does not have are left out of the loss. Raises UsageError where the teacher was not trained here.
    """
    section = context.recipe.teacher
    if section.train is None or not section.trained_here:
        raise UsageError(
            "a teacher that is taken as it is cannot be trained anew for the student's modalities",
            where="distill.controls.same_modality_teacher",
            todo="remove the key, or train the teacher in this recipe",
        )
    modalities = tuple(student.modalities)
    with processes.main_first():
        own = context.preprocessed_for(section)
    contract = own.contract(section.model) if section.model.factory else own.dataset.contract.only(modalities)
    if not set(modalities) & set(contract.modalities):
        raise UsageError(
            "the teacher's network takes none of the student's modalities",
            where="distill.controls.same_modality_teacher",
        )
    train, validation = (
        split.masked_to(modalities).only(tuple(contract.modalities))
        for split in (own.dataset.train, own.dataset.validation)
    )
    schedule = section.train
    variant = Variant(
        "same-modality-teacher",
        "control: a teacher of the student's modalities",
        lambda _: Supervised(contract, schedule),
        train,
        validation,
        np.flatnonzero(train.labelled),
        schedule,
    )
    one = section.model.model_copy(update={"ensemble": 1})
    module = train_student(variant, one, contract, own, 0).module
    hints: tuple[Hint, ...] = tuple(hint for hint in config.loss.hints if layer_of(module, hint.teacher) is not None)
    loss = config.loss.model_copy(update={"hints": hints})
    views = TeachingSplit(context, config.train, "train", config).views(own.dataset, tuple(contract.modalities))
    source = ModuleSource(
        module,
        contract,
        replace(views, samples=train),
        hints,
        key=f"{sha256_of(context.work / f'{variant.name}-0.safetensors')} {context.dataset.sha256}",
        who="the teacher of the student's modalities",
    )
    config = config.model_copy(update={"loss": loss})
    return teacher_from(source, config, context, config.train, config.controls.seeds), loss
