"""Distillation: the student taught by the teacher, and the same student without a teacher, to know whether it helped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmedge.artifact import Artifact
from mmedge.models import load
from mmedge.recipe import Distill
from mmedge.stages.trained import write_trained
from mmedge.training.context import Context
from mmedge.training.fit import Fitted, fit
from mmedge.training.objectives import Distillation, supervised
from mmedge.training.taught import taught_samples, teacher_for


def distill(parent: Artifact, config: Distill, context: Context, target: Path, key: str) -> Artifact:
    """Train the student over the control's seeds with the teacher (and without); the best by validation is kept.

    All students share the schedule, the number of steps and the augmented views; a control's step draws from the
    labelled samples only, since nothing else can teach it.
    """
    contract = context.contract(config.model)
    samples, validation = (
        taught_samples(config, context, contract),
        context.dataset.validation.only(tuple(contract.modalities)),
    )
    labelled, everything = np.flatnonzero(samples.labelled), np.arange(len(samples))
    with_control = config.controls.no_distillation and len(labelled) > 0
    teacher = teacher_for(config, context, config.train, fits=config.controls.seeds)
    students: dict[str, tuple[nn.Module, Fitted]] = {}
    for number in range(config.controls.seeds):
        seed = context.recipe.seed + number
        for name in ("distilled", "control") if with_control else ("distilled",):
            torch.manual_seed(seed)
            student = context.build(config.model, contract)
            taught = name == "distilled"
            objective = (
                Distillation(student, teacher, contract, config.loss, config.train)
                if taught
                else supervised(contract, config.train)
            )
            fitted = fit(
                student,
                objective,
                contract,
                samples,
                validation,
                config.train,
                seed=seed,
                view_seed=context.recipe.seed,
                usable=everything if taught else labelled,
                state=context.work / f"{name}-{number}.safetensors",
                task=f"{'distilling' if taught else 'control without a teacher'}, seed {number + 1}/{config.controls.seeds}",
                progress=context.progress,
                logs=context.logs / f"{name}-{number}",
            )
            students[f"{name}-{number}"] = (student, fitted)
    best = max(
        (name for name in students if name.startswith("distilled")),
        key=lambda name: max(epoch["selection"] for epoch in students[name][1].history),
    )
    others = {name: student for name, (student, _) in students.items()}

    def write(folder: Path) -> None:
        for name, student in others.items():
            (folder / name).mkdir()
            load.save(student, folder / name, [])

    labels = f"{len(labelled)} of {len(samples)} training samples have a label that the student may see"
    return write_trained(
        others[best],
        contract,
        students[best][1],
        context=context,
        model=config.model,
        stage="distill",
        target=target,
        key=key,
        parent=parent,
        notes=(
            labels,
            *teacher.notes,
            f"seed {best.rpartition('-')[2]} of {config.controls.seeds} kept, by validation",
        ),
        more={"students": sorted(others)},
        write=write,
    )
