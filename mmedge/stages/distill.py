"""Distillation: the student taught by the teacher, and the students that tell whether that was worth it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from mmedge.artifact import Artifact
from mmedge.contract import Contract, subsets
from mmedge.measure.gain import decide
from mmedge.models import load
from mmedge.models.blocks import take_over
from mmedge.models.ensemble import members_of
from mmedge.recipe import Distill, Loss
from mmedge.report.schema import DecisionRecord, PrivacyRecord, TriedLossRecord
from mmedge.stages.results import ComparedRecord, DistillResult
from mmedge.stages.trained import Trained, write_trained
from mmedge.training.context import Context
from mmedge.training.objectives import Distillation, Supervised
from mmedge.training.pretexts import from_nothing
from mmedge.training.privacy import refuse_open_teacher, spent_record, student_noise
from mmedge.training.teaching.controls import same_modality_teacher, takes_others
from mmedge.training.teaching.students import Student, Variant, train_student
from mmedge.training.teaching.taught import shown_samples, taught_samples, teacher_for
from mmedge.training.teaching.teachers import Teacher

# Resamples of the interval that the decision tells; the decision itself is the sign of the mean.
_RESAMPLES = 500
# What a student gains in the last quarter of its epochs, from which on it is told that more may help.
_STILL_RISING = 0.01


def distill(parent: Artifact, config: Distill, context: Context) -> DistillResult:
    """Train the student with the teacher and its controls, over the seeds; what is better on validation is kept.

    All students share the schedule, the number of steps and the augmented views; the control without a teacher draws
    from the labelled samples only, since nothing else can teach it.
    """
    refuse_open_teacher(parent, context)
    contract = context.contract(config.model)
    candidates = [_candidate(config, loss, context, contract) for loss in config.losses]
    first = _tried(candidates, config, context, contract)
    chosen = max(range(len(first)), key=lambda number: first[number].selection, default=0)
    candidate = candidates[chosen]
    variants = _variants(candidate, context, contract)
    students: dict[str, list[Student]] = {"distilled": first[chosen : chosen + 1]}

    def train(variant: Variant) -> None:
        of = students.setdefault(variant.name, [])
        for number in range(len(of), config.controls.seeds):
            of.append(train_student(variant, config.model, contract, context, number))

    for variant in variants.values():
        train(variant)
    decision = _decision(students, candidate.variant, contract, context)
    kept, compared = variants[decision.kept], _compared(variants)
    for alone in _alone(kept, config, contract):
        train(alone)
        compared[alone.name] = ComparedRecord(students=alone.name, against=kept.name, shown=list(alone.subset or ()))
    number = max(range(config.controls.seeds), key=lambda number: students[kept.name][number].selection)
    best = students[kept.name][number]
    every = {f"{name}-{n}": student for name, of in students.items() for n, student in enumerate(of)}
    others = {name: student.module for name, student in every.items()}
    losses = _losses(candidates, first, chosen)
    trained = write_trained(Trained(best.module, contract, best.fitted, config.model, others=others), context)
    privacy = _privacy(first, students, parent, config, context)
    notes = [
        f"{shown_samples(config, context, contract).labelled.sum()} of {len(candidate.variant.samples)} training samples have a label that the student may see",
        *([config.model.proposed] if config.model.proposed else []),
        *candidate.teacher.notes,
        *([_chosen_note(losses)] if losses else []),
        decision.said,
        *([str(privacy)] if privacy else []),
        *_unfinished(students["distilled"]),
        f"seed {number} of {config.controls.seeds} kept, by validation",
        *_untaken(config, context, contract),
        *_broken_off(every, best),
        *trained.notes,
    ]
    loss = candidate.config.loss.model_dump(mode="json")
    more = {"controls": compared, "decision": decision, "loss": loss, "losses": losses or None, "notes": notes}
    more["privacy"] = privacy
    return DistillResult.of(trained, students=sorted(every), **more)


def _privacy(
    tried: list[Student], students: dict[str, list[Student]], teacher: Artifact, config: Distill, context: Context
) -> PrivacyRecord | None:
    """What all students that could have shipped have spent; the other controls cost nothing, since none is chosen."""
    able = [*students["distilled"], *students.get("control", []), *tried]
    phases = [student.fitted.private for student in {id(student): student for student in able}.values()]
    spent = [phase for phase in phases if phase is not None]
    learned = any(loss.logits for loss in config.losses)
    factory = config.model.factory is not None
    return spent_record(config.train, spent, context, teacher=teacher if learned else None, factory=factory)


def _tried(candidates: list[_Candidate], config: Distill, context: Context, contract: Contract) -> list[Student]:
    """A student of the first seed for each of several losses, of which one is chosen; it need not be trained again."""
    if len(candidates) == 1:
        return []
    tried = [candidate.tried(number) for number, candidate in enumerate(candidates)]
    return [train_student(variant, config.model, contract, context, 0) for variant in tried]


def _losses(candidates: list[_Candidate], tried: list[Student], chosen: int) -> list[TriedLossRecord]:
    return [
        TriedLossRecord(
            loss=candidates[number].config.loss.model_dump(mode="json"),
            selection=student.selection,
            kept=number == chosen,
        )
        for number, student in enumerate(tried)
    ]


def _alone(kept: Variant, config: Distill, contract: Contract) -> list[Variant]:
    """The controls of subsets: each a student of the same size that never sees more."""
    if not config.controls.subset_students:
        return []
    found = [kept.alone(subset, contract) for subset in subsets(tuple(contract.modalities))[:-1]]
    return [alone for alone in found if len(alone.usable)]


def _broken_off(every: dict[str, Student], best: Student) -> list[str]:
    """What is told of the trainings that broke off: a control that did makes the gain look better.

    Of the kept one it is told with the training.
    """
    broken = {name: student for name, student in every.items() if student.fitted.diverged and student is not best}
    return [f"{name}: {note}" for name, student in broken.items() for note in student.fitted.notes]


@dataclass(frozen=True)
class _Candidate:
    """One of the recipe's losses as a section of its own, the teacher whose outputs it needs, and its student."""

    config: Distill
    teacher: Teacher
    variant: Variant

    def tried(self, number: int) -> Variant:
        """The same student under a name of its own."""
        return replace(self.variant, name=f"loss-{number}", title=f"trying loss {number + 1}")


def _candidate(config: Distill, loss: Loss, context: Context, contract: Contract) -> _Candidate:
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
        student_noise(context.recipe, len(samples), int(context.dataset.train.labelled.sum())),
        pretrain=config.pretrain,
        start=_begins(config, context),
    )
    # Hints that do not fit are told before controls are trained.
    variant.objective(context.build(config.model, contract))
    return _Candidate(config, teacher, variant)


def _begins(config: Distill, context: Context) -> Callable[[nn.Module], None]:
    """What gives a student its first weights: the teacher's, or nothing more than chance has."""
    if not config.from_teacher:
        return lambda student: None
    teacher = context.teacher
    assert teacher is not None, "teacher_for has refused that"
    # Built again each time: a large teacher is not held through all of the training.
    return lambda student: take_over(student, members_of(context.rebuild(teacher))[0], config.from_teacher)


def _variants(candidate: _Candidate, context: Context, contract: Contract) -> dict[str, Variant]:
    """The distilled student, and those controls that are there whatever is kept."""
    config, distilled = candidate.config, candidate.variant
    found, shown = [distilled], shown_samples(config, context, contract)
    if config.controls.no_distillation and shown.labelled.any():
        found.append(
            replace(
                distilled,
                name="control",
                title="control without a teacher",
                samples=shown,
                objective=lambda _: Supervised(contract, config.train),
                usable=np.flatnonzero(shown.labelled),
            )
        )
    if config.pretrain and config.pretrain.control:
        longer = from_nothing(config.train, config.pretrain)
        nothing = replace(
            distilled, name="from-nothing", title="control without pretraining", pretrain=None, train=longer
        )
        found.append(nothing)
    assert context.teacher is not None, "teacher_for has refused that"
    if config.controls.same_modality_teacher and takes_others(load.contract_of(context.teacher), contract):
        other, loss = same_modality_teacher(config, contract, context)
        found.append(
            replace(
                distilled,
                name="same-modality",
                title="control with a teacher of the student's modalities",
                objective=lambda student: Distillation(student, other, contract, loss, config.train),
            )
        )
    return {variant.name: variant for variant in found}


def _chosen_note(losses: list[TriedLossRecord]) -> str:
    """Which loss was chosen, against which others."""
    kept = next(row for row in losses if row.kept)
    others = ", ".join(f"{row.selection:.3f}" for row in losses if not row.kept)
    loss = Loss.model_validate(kept.loss)
    words = f"{loss.kind}, logits {loss.logits:g}, temperature {loss.temperature:g}, {loss.schedule}"
    return f"loss chosen in one seed by validation: {words} ({kept.selection:.3f}; the others {others})"


def _unfinished(distilled: list[Student]) -> tuple[str, ...]:
    """A hint where the schedule was short for a teacher.

    Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent": its outputs take longer to learn
    from than labels do.
    """
    rises = []
    for student in distilled:
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
    controls, notes = config.controls, []
    if controls.no_distillation and config.labels == "none":
        notes.append("control no_distillation left out: the student sees no label, so nothing else can teach it")
    if controls.same_modality_teacher and not takes_others(load.contract_of(context.teacher), contract):
        notes.append("control same_modality_teacher left out: the teacher takes no modality that the student does not")
    return tuple(notes)


def _compared(variants: dict[str, Variant]) -> dict[str, ComparedRecord]:
    """{control: which students are compared, with which, shown what}: what the report's controls are measured from."""
    names = {"control": "no-distillation", "same-modality": "same-modality-teacher", "from-nothing": "no-pretraining"}
    return {
        names[name]: ComparedRecord(students=name, against="distilled", shown=None)
        for name in variants
        if name in names
    }


def _decision(
    students: dict[str, list[Student]], variant: Variant, contract: Contract, context: Context
) -> DecisionRecord:
    """Whether the distilled student ships, or the one without a teacher; see ``measure.gain.decide``."""
    if "control" not in students:
        reason = "no control without a teacher: whether distillation helps was not measured"
        return DecisionRecord(kept="distilled", said=reason)
    context.progress.say("distill: comparing with the control on validation")
    distilled, control = (
        [student.outputs(contract, variant.validation) for student in students[name]]
        for name in ("distilled", "control")
    )
    return decide(contract, distilled, control, variant.validation, resamples=_RESAMPLES, seed=context.recipe.seed)
