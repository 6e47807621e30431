"""The control for a cross-modal gain: a teacher that knows no more modalities than its student."""

from __future__ import annotations

from dataclasses import replace

import torch

from mmedge.artifact import sha256_of
from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.recipe import Distill, Hint, Loss
from mmedge.recipe.pretraining import learnable
from mmedge.training.context import Context
from mmedge.training.loop import processes
from mmedge.training.teaching.layers import layer_of
from mmedge.training.teaching.lesson import Lesson
from mmedge.training.teaching.sources import Inference, ModuleSource
from mmedge.training.teaching.taught import TeachingSplit, teacher_from
from mmedge.training.teaching.teachers import Teacher

# Of its states and its log.
_NAME = "same-modality-teacher"


def takes_others(teacher: Contract, student: Contract) -> bool:
    """Whether the teacher takes a modality that the student does not."""
    return bool(set(teacher.modalities) - set(student.modalities))


def same_modality_teacher(config: Distill, student: Contract, context: Context) -> tuple[Teacher, Loss]:
    """The recipe's teacher network, trained on the same data with the student's modalities alone; and what it can teach.

    The built-in network is built for them; a module of the user's own is shown nothing else. It is an ensemble where the
    teacher is, and learns without labels first where the teacher did and these modalities allow it. Hints at layers that
    such a teacher does not have are left out of the loss. Raises UsageError where the teacher was not trained here.
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
    torch.manual_seed(own.recipe.seed)
    module = own.build(section.model, contract)
    lesson = Lesson(contract, train, validation, section.model, own, section.sharded)
    lesson.taught(module, section.train, _NAME, learnable(section.pretrain, contract.modalities))
    hints: tuple[Hint, ...] = tuple(hint for hint in config.loss.hints if layer_of(module, hint.teacher) is not None)
    loss = config.loss.model_copy(update={"hints": hints})
    views = TeachingSplit(context, config.train, "train", config).views(own.dataset, tuple(contract.modalities))
    source = ModuleSource(
        module,
        contract,
        replace(views, samples=train),
        hints,
        key=f"{' '.join(map(sha256_of, sorted(context.work.glob(f'{_NAME}*.safetensors'))))} {context.dataset.sha256}",
        who="the teacher of the student's modalities",
        how=Inference(sharded=section.sharded),
    )
    config = config.model_copy(update={"loss": loss})
    return teacher_from(source, config, context, config.train, config.controls.seeds), loss
