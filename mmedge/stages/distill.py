"""Distillation: the student taught by the teacher, and the students that tell whether that was worth it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.artifact import Artifact
from mmedge.measure.gain import decide
from mmedge.models import load
from mmedge.recipe import Distill
from mmedge.spec import Contract, subsets
from mmedge.stages.trained import write_trained
from mmedge.training.context import Context
from mmedge.training.controls import same_modality_teacher, takes_others
from mmedge.training.objectives import Distillation, supervised
from mmedge.training.students import Student, Variant, train_student
from mmedge.training.taught import taught_samples, teacher_for
from mmedge.training.teachers import Teacher

# Resamples of the interval that the decision tells; the decision itself is the sign of the mean.
_RESAMPLES = 500


def distill(parent: Artifact, config: Distill, context: Context, target: Path, key: str) -> Artifact:
    """Train the student with the teacher and its controls, over the seeds; what is better on validation is kept.

    All students share the schedule, the number of steps and the augmented views; the control without a teacher draws from
    the labelled samples only, since nothing else can teach it.
    """
    contract = context.contract(config.model)
    teacher = teacher_for(config, context, config.train, fits=config.controls.seeds)
    variants = _variants(config, context, contract, teacher)
    students: dict[str, list[Student]] = {}

    def train(variant: Variant) -> None:
        students[variant.name] = [
            train_student(variant, config.model, contract, context, number) for number in range(config.controls.seeds)
        ]

    for variant in variants.values():
        train(variant)
    decision = _decision(students, variants["distilled"], contract, context)
    kept = variants[decision["kept"]]
    compared = _compared(variants)
    if config.controls.subset_students:
        for chosen in subsets(tuple(contract.modalities))[:-1]:
            alone = kept.alone(chosen)
            if len(alone.usable):
                train(alone)
                compared[alone.name] = {"students": alone.name, "against": kept.name, "shown": list(chosen)}
    number = max(range(config.controls.seeds), key=lambda number: students[kept.name][number].selection)
    best = students[kept.name][number]
    every = {f"{name}-{n}": student for name, of in students.items() for n, student in enumerate(of)}

    def write(folder: Path) -> None:
        for name, student in every.items():
            (folder / name).mkdir()
            load.save(student.module, folder / name, [])

    samples = variants["distilled"].samples
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
            *teacher.notes,
            decision["said"],
            f"seed {number} of {config.controls.seeds} kept, by validation",
        ),
        more={"students": sorted(every), "controls": compared, "decision": decision},
        write=write,
    )


def _variants(config: Distill, context: Context, contract: Contract, teacher: Teacher) -> dict[str, Variant]:
    """The distilled student, and those controls that are there whatever is kept."""
    samples = taught_samples(config, context, contract)
    validation = context.dataset.validation.only(tuple(contract.modalities))
    distilled = Variant(
        "distilled",
        "distilling",
        lambda student: Distillation(student, teacher, contract, config.loss, config.train),
        samples,
        validation,
        np.arange(len(samples)),
        config.train,
    )
    found = [distilled]
    if config.controls.no_distillation and samples.labelled.any():
        found.append(
            replace(
                distilled,
                name="control",
                says="control without a teacher",
                objective=lambda _: supervised(contract, config.train),
                usable=np.flatnonzero(samples.labelled),
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
