"""Distillation: the student taught by the teacher, and the students that tell whether that was worth it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.artifact import Artifact
from mmedge.measure.gain import decide
from mmedge.models import load
from mmedge.recipe import Distill, Loss
from mmedge.spec import Contract, subsets
from mmedge.stages.trained import write_trained
from mmedge.training.context import Context
from mmedge.training.objectives import Distillation, supervised
from mmedge.training.teaching.controls import same_modality_teacher, takes_others
from mmedge.training.teaching.students import Student, Variant, train_student
from mmedge.training.teaching.taught import taught_samples, teacher_for
from mmedge.training.teaching.teachers import Teacher

# Resamples of the interval that the decision tells; the decision itself is the sign of the mean.
_RESAMPLES = 500
# What a student gains in the last quarter of its epochs, from which on it is told that more may help.
_STILL_RISING = 0.01


def distill(parent: Artifact, config: Distill, context: Context, target: Path, key: str) -> Artifact:
    """Train the student with the teacher and its controls, over the seeds; what is better on validation is kept.

    All students share the schedule, the number of steps and the augmented views; the control without a teacher draws
    from the labelled samples only, since nothing else can teach it.
    """
    contract = context.contract(config.model)
    lessons = [_lesson(config, loss, context, contract) for loss in config.losses]
    # Of several losses one is chosen in the first seed; that seed's student need not be trained again.
    first = (
        [
            train_student(lesson.tried(number), config.model, contract, context, 0)
            for number, lesson in enumerate(lessons)
        ]
        if len(lessons) > 1
        else []
    )
    chosen = max(range(len(first)), key=lambda number: first[number].selection, default=0)
    lesson = lessons[chosen]
    variants = _variants(lesson, context, contract)
    students: dict[str, list[Student]] = {"distilled": first[chosen : chosen + 1]}

    def train(variant: Variant) -> None:
        of = students.setdefault(variant.name, [])
        for number in range(len(of), config.controls.seeds):
            of.append(train_student(variant, config.model, contract, context, number))

    for variant in variants.values():
        train(variant)
    decision = _decision(students, lesson.variant, contract, context)
    kept = variants[decision["kept"]]
    compared = _compared(variants)
    if config.controls.subset_students:
        for subset in subsets(tuple(contract.modalities))[:-1]:
            alone = kept.alone(subset)
            if len(alone.usable):
                train(alone)
                compared[alone.name] = {"students": alone.name, "against": kept.name, "shown": list(subset)}
    number = max(range(config.controls.seeds), key=lambda number: students[kept.name][number].selection)
    best = students[kept.name][number]
    every = {f"{name}-{n}": student for name, of in students.items() for n, student in enumerate(of)}
    losses = [
        {"loss": lessons[n].config.loss.model_dump(mode="json"), "selection": student.selection, "kept": n == chosen}
        for n, student in enumerate(first)
    ]

    def write(folder: Path) -> None:
        for name, student in every.items():
            (folder / name).mkdir()
            load.save(student.module, folder / name, [])

    samples = lesson.variant.samples
    return write_trained(
        best.module,
        contract,
        best.fitted,
        context=context,
        model=config.model,
        stage="distill",
        target=target,
        key=key,
        parent=parent,
        notes=(
            f"{samples.labelled.sum()} of {len(samples)} training samples have a label that the student may see",
            *lesson.teacher.notes,
            *([_said(losses)] if losses else []),
            decision["said"],
            *_unfinished(students["distilled"]),
            f"seed {number} of {config.controls.seeds} kept, by validation",
            *_untaken(config, context, contract),
            # Of the kept one it is told with the training; a control that broke off makes the gain look better.
            *(
                f"{name}: {note}"
                for name, student in every.items()
                if student.fitted.diverged and student is not best
                for note in student.fitted.notes
            ),
        ),
        more={
            "students": sorted(every),
            "controls": compared,
            "decision": decision,
            "loss": lesson.config.loss.model_dump(mode="json"),
            **({"losses": losses} if losses else {}),
        },
        write=write,
    )


@dataclass(frozen=True)
class _Lesson:
    """One of the recipe's losses as a section of its own, the teacher that answers what it asks, and its student."""

    config: Distill
    teacher: Teacher
    variant: Variant

    def tried(self, number: int) -> Variant:
        """The same student under a name of its own."""
        return replace(self.variant, name=f"loss-{number}", says=f"trying loss {number + 1}")


def _lesson(config: Distill, loss: Loss, context: Context, contract: Contract) -> _Lesson:
    config = config.model_copy(update={"loss": loss})
    teacher = teacher_for(config, context, config.train, fits=config.controls.seeds)
    samples = taught_samples(config, context, contract)
    variant = Variant(
        "distilled",
        "distilling",
        lambda student: Distillation(student, teacher, contract, loss, config.train),
        samples,
        context.dataset.validation.only(tuple(contract.modalities)),
        np.arange(len(samples)),
        config.train,
    )
    # Hints that do not fit are told before controls are trained.
    variant.objective(context.build(config.model, contract))
    return _Lesson(config, teacher, variant)


def _variants(lesson: _Lesson, context: Context, contract: Contract) -> dict[str, Variant]:
    """The distilled student, and those controls that are there whatever is kept."""
    config, distilled = lesson.config, lesson.variant
    found = [distilled]
    if config.controls.no_distillation and distilled.samples.labelled.any():
        found.append(
            replace(
                distilled,
                name="control",
                says="control without a teacher",
                objective=lambda _: supervised(contract, config.train),
                usable=np.flatnonzero(distilled.samples.labelled),
            )
        )
    assert context.teacher is not None, "teacher_for has refused that"
    if config.controls.same_modality_teacher and takes_others(load.contract_of(context.teacher), contract):
        other, loss = same_modality_teacher(config, contract, context)
        found.append(
            replace(
                distilled,
                name="same-modality",
                says="control with a teacher of the student's modalities",
                objective=lambda student: Distillation(student, other, contract, loss, config.train),
            )
        )
    return {variant.name: variant for variant in found}


def _said(losses: list[dict[str, Any]]) -> str:
    """Which loss was chosen, against which others."""
    kept = next(row for row in losses if row["kept"])
    others = ", ".join(f"{row['selection']:.3f}" for row in losses if not row["kept"])
    loss = kept["loss"]
    words = f"{loss['kind']}, logits {loss['logits']:g}, temperature {loss['temperature']:g}, {loss['schedule']}"
    return f"loss chosen in one seed by validation: {words} ({kept['selection']:.3f}; the others {others})"


def _unfinished(taught: list[Student]) -> tuple[str, ...]:
    """A hint where the schedule was short for a teacher.

    Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent": its answers take longer to learn
    from than labels do.
    """
    rises = []
    for student in taught:
        figures = [epoch["selection"] for epoch in student.fitted.history]
        last = -(-len(figures) // 4)
        rises.append(max(figures[-last:]) - max(figures[:-last], default=np.inf))
    rise = float(np.mean(rises))
    if rise < _STILL_RISING:
        return ()
    return (
        f"the taught student still rose by {rise:.3f} on validation in the last quarter of its epochs: "
        "with more (distill.train.epochs) the gain may be larger",
    )


def _untaken(config: Distill, context: Context, contract: Contract) -> tuple[str, ...]:
    """The controls that the recipe asks for and that cannot be had, with the reason."""
    assert context.teacher is not None, "teacher_for has refused that"
    asked, notes = config.controls, []
    if asked.no_distillation and config.labels == "none":
        notes.append("control no_distillation left out: the student sees no label, so nothing else can teach it")
    if asked.same_modality_teacher and not takes_others(load.contract_of(context.teacher), contract):
        notes.append("control same_modality_teacher left out: the teacher takes no modality that the student does not")
    return tuple(notes)


def _compared(variants: dict[str, Variant]) -> dict[str, dict[str, Any]]:
    """{control: which students are compared, with which, shown what}: what the report's controls are measured from."""
    names = {"control": "no-distillation", "same-modality": "same-modality-teacher"}
    return {
        names[name]: {"students": name, "against": "distilled", "shown": None} for name in variants if name in names
    }


def _decision(
    students: dict[str, list[Student]], variant: Variant, contract: Contract, context: Context
) -> dict[str, Any]:
    """Whether the distilled student ships, or the one without a teacher; see ``measure.gain.decide``."""
    if "control" not in students:
        return {
            "kept": "distilled",
            "said": "no control without a teacher: whether distillation helps was not measured",
        }
    context.progress.say("distill: comparing with the control on validation")
    distilled, control = (
        [student.answers(contract, variant.validation) for student in students[name]]
        for name in ("distilled", "control")
    )
    return decide(contract, distilled, control, variant.validation, resamples=_RESAMPLES, seed=context.recipe.seed)
