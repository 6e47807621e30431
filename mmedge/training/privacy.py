"""Private trainings of a recipe: whether their budgets can be kept, what was spent, and what the promise does not cover."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import numpy as np

from mmedge import tasks
from mmedge.artifact import Artifact
from mmedge.contract import Contract
from mmedge.errors import Fault, MmedgeError, UsageError
from mmedge.models import load
from mmedge.recipe import Model, Recipe, TeacherConfig, Train
from mmedge.recipe.privacy import shared_by
from mmedge.report.schema import PrivacyRecord
from mmedge.training.context import Context
from mmedge.training.faults import own_contract
from mmedge.training.loop.accounting import Phase, epsilon_of, noise_for
from mmedge.training.loop.batches import steps_per_epoch
from mmedge.training.loop.log import CSV, csv_read
from mmedge.training.loop.private import check_private

_STUDENT, _TEACHER = "distill.train.privacy", "teacher.train.privacy"


def student_noise(recipe: Recipe, samples: int, labelled: int) -> float | None:
    """The noise that all students of which one is chosen are trained with; None where that is not private.

    ``samples``: of the training split; ``labelled``: how many of them have a label. Raises what ``noise_for`` raises.
    """
    config = recipe.distill
    if config is None or config.train.privacy is None:
        return None
    seen = min(config.labels, labelled) if isinstance(config.labels, int) else labelled
    # The control draws from the labelled ones, and so each of them more often.
    usable = seen if seen and config.controls.no_distillation and config.labels != "none" else samples
    return noise_for(config.train, usable, _steps(samples, config.train), shared_by(recipe), _STUDENT)


def budget_faults(recipe: Recipe, samples: int, labelled: int) -> Iterator[Fault]:
    """Budgets of privacy that cannot be kept, each with what it would need; of a missing Opacus too."""
    try:
        student_noise(recipe, samples, labelled)
    except MmedgeError as error:
        yield Fault.of(error, "privacy", module=error.where, file=None)
    train = recipe.teacher.train
    if train and train.privacy and recipe.teacher.trained_here and labelled:
        try:
            noise_for(train, labelled, _steps(samples, train), 1, _TEACHER)
        except MmedgeError as error:
            yield Fault.of(error, "privacy", module=error.where, file=None)


def network_faults(recipe: Recipe, contract: Contract, factory: Callable[[Model], object]) -> Iterator[Fault]:
    """Networks that cannot be trained privately as the recipe asks. ``contract``: the data's; what cannot be built is told elsewhere."""
    student = recipe.distill
    sections: list[tuple[str, TeacherConfig, Train | None]] = [("teacher.model", recipe.teacher, recipe.teacher.train)]
    sections += [("distill.model", TeacherConfig(model=student.model), student.train)] if student else []
    for where, section, train in sections:
        if train is None or train.privacy is None:
            continue
        own = own_contract(section, contract)
        with suppress(Exception):
            module = load.build(section.model, own, factory=factory(section.model), fresh=True)
            load.check_forward(module, own, where)
            try:
                check_private(module, own, where)
            except UsageError as error:
                yield Fault.of(error, "privacy", module=where, file=None)


def refuse_unkept(context: Context) -> None:
    """Raise what keeps the student from being trained privately, before a teacher is trained for it."""
    recipe, train = context.recipe, context.dataset.train
    assert recipe.distill is not None
    if recipe.distill.train.privacy:
        student_noise(recipe, len(train), int(train.labelled.sum()))
        contract = context.contract(recipe.distill.model)
        check_private(context.build(recipe.distill.model, contract), contract, "distill.model")


def refuse_open_teacher(parent: Artifact, context: Context) -> None:
    """Raise UsageError where a teacher that was trained here without noise would teach a private student.

    The recipe cannot say so of one that is named by ``--from``.
    """
    config = context.recipe.distill
    assert config is not None
    learned = parent.file(CSV).is_file() and csv_read(parent.file(CSV))
    if config.train.privacy and any(loss.logits for loss in config.losses) and learned and "privacy" not in parent.meta:
        raise UsageError(
            "the teacher was trained without noise, perhaps on the same samples: a student of it is not private",
            where=str(parent.path),
            todo="train it with teacher.train.privacy, or teach by labels alone (distill.loss.logits: 0)",
        )


def spent_record(
    train: Train, phases: Sequence[Phase], context: Context, *, teacher: Artifact | None = None, factory: bool = False
) -> PrivacyRecord | None:
    """What trainings of which one is chosen have spent together; None where they are not private.

    ``teacher``: the artifact whose outputs were learned from, if any was; ``factory``: whether the network is the user's own.
    """
    if train.privacy is None:
        return None
    epsilon, delta = epsilon_of(phases, train.privacy.delta), train.privacy.delta
    before = PrivacyRecord.model_validate(teacher.meta["privacy"]) if teacher and "privacy" in teacher.meta else None
    return PrivacyRecord(
        epsilon=epsilon + (before.epsilon if before else 0.0),
        delta=delta + (before.delta if before else 0.0),
        noise_multiplier=max(phase.noise_multiplier for phase in phases),
        clip=train.privacy.clip,
        sample_rate=max(phase.sample_rate for phase in phases),
        steps=sum(phase.steps for phase in phases),
        trainings=len(phases),
        teacher_epsilon=before.epsilon if before else None,
        not_covered=_not_covered(context, teacher if teacher and not before else None, factory),
    )


def _not_covered(context: Context, open_teacher: Artifact | None, factory: bool) -> list[str]:
    dataset, recipe = context.dataset, context.recipe
    found = []
    groups = np.unique(dataset.train.groups, return_counts=True)[1]
    if len(groups) < len(dataset.train):
        found.append(
            f"whoever has several samples: they come in {len(groups)} groups of up to {groups.max()}, and the bound is of one"
        )
    if open_teacher is not None or (recipe.distill and recipe.distill.teachers):
        found.append("what teachers from elsewhere have learned: the bound holds where they never saw these samples")
    fitted = [name for name, spec in dataset.contract.modalities.items() if spec != recipe.data.modalities.get(name)]
    units = [name for name, head in dataset.contract.heads.items() if tasks.of(head).UNIT]
    if fitted or units:
        found.append(f"what is fitted on training samples and ships as it is: of {', '.join([*fitted, *units])}")
    if factory:
        found.append("the training means that stand in for absent inputs of a network of one's own")
    found.append("the validation samples, which choose the epoch and the student")
    found.append("other trainings on the same samples, before or after: each spends anew")
    return [*found, "the run's folder and report, where losses, other networks and their figures are without noise"]


def _steps(samples: int, train: Train) -> int:
    return steps_per_epoch(samples, train) * train.epochs
