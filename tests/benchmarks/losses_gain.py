"""Losses x gain: each kind of distillation against the student without a teacher, 200 labels, as a Markdown table.

    make bench-losses                                  # the demo's recipe; trains a teacher where runs/demo has none
    python -m tests.benchmarks losses_gain             # MMEDGE_BENCH_{OUT,TEACHER,EPOCHS,SEEDS} change what it runs on

Two students, one of both modalities and one that only hears. All losses of a student start from the same weights, and share the
control's schedule. Gains are on the test split, paired by sample and by seed; the median over seeds is told too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mmedge import artifact, recipe
from mmedge.data.store import samples
from mmedge.measure.gain import gain
from mmedge.measure.quality import predict_module
from mmedge.pipeline import fold as pipeline
from mmedge.progress import Silent
from mmedge.recipe import Hint, Loss
from mmedge.report.schema import ControlRecord
from mmedge.training.context import Context
from mmedge.training.objectives import Distillation, Supervised
from mmedge.training.teaching.students import Variant, train_student
from mmedge.training.teaching.taught import taught_samples, teacher_for

RECIPES = Path(__file__).parents[2] / "recipes"
STUDENTS = {"image + audio": "avdigits.yaml", "audio only": "avdigits-audio-only.yaml"}
FUSION, SOUND = Hint(weight=0.5), Hint(teacher="encoders.audio", student="encoders.audio", weight=0.5)
LOSSES = {
    "KD (Hinton)": Loss(),
    "KD, linear fade": Loss(schedule="linear"),
    "DKD": Loss(kind="dkd"),
    "DIST": Loss(kind="dist"),
    "KD + features, fusion": Loss(hints=(FUSION,)),
    "KD + features, fusion and encoder": Loss(hints=(FUSION, SOUND)),
    "KD + relations": Loss(hints=(Hint(kind="relations"),)),
    "KD + contrastive": Loss(hints=(Hint(kind="contrastive", weight=0.2),)),
    "features alone": Loss(logits=0, hints=(Hint(),)),
}


def main() -> None:
    torch.set_num_threads(1)
    out = Path(os.environ.get("MMEDGE_BENCH_OUT", "runs/bench-losses"))
    epochs, seeds = (
        int(os.environ.get(f"MMEDGE_BENCH_{key}", default)) for key, default in (("EPOCHS", 20), ("SEEDS", 3))
    )
    rows = {name: {} for name in LOSSES}
    for student, file in STUDENTS.items():
        made = recipe.load(RECIPES / file, (f"distill.train.epochs={epochs}", "distill.cache=always"))
        dataset = samples.prepare(made, out, code=RECIPES, progress=Silent())
        taught_by = Path(os.environ.get("MMEDGE_BENCH_TEACHER", "runs/demo/teacher"))
        if not (taught_by / artifact.MANIFEST).is_file():
            pipeline.run(made, out, code=RECIPES, progress=Silent(), only="teacher")
            taught_by = out / "teacher"
        context = Context(made, dataset, out / "bench", RECIPES, Silent(), artifact.read(taught_by))
        for name, record in _measured(context, seeds):
            low, high = record.gain_ci95
            rows[name][student] = f"{record.gain:+.3f} [{low:+.3f}, {high:+.3f}], median {record.gain_median:+.3f}"
            print(student, name, rows[name][student], file=sys.stderr, flush=True)
            rows.setdefault("accuracy without a teacher", {})[student] = f"{np.mean(record.control_by_seed):.3f}"
    lines = [f"| loss ({seeds} seeds, {epochs} epochs, {made.distill.labels} labels) | {' | '.join(STUDENTS)} |"]
    lines += ["| --- |" + " --- |" * len(STUDENTS)]
    lines += [
        f"| {name} | {' | '.join(cells.get(student, '') for student in STUDENTS)} |" for name, cells in rows.items()
    ]
    (out / "losses.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _measured(context: Context, seeds: int) -> Iterator[tuple[str, ControlRecord]]:
    """(loss, the record of its gain on the test split), one after the other; a call after a kill goes on where it was."""
    config = context.recipe.distill
    contract = context.contract(config.model)
    train = taught_samples(config, context, contract)
    validation, test = (
        split.only(tuple(contract.modalities)) for split in (context.dataset.validation, context.dataset.test)
    )

    def outputs(variant: Variant) -> list[np.ndarray]:
        made = [train_student(variant, config.model, contract, context, number) for number in range(seeds)]
        return [predict_module(student.module, contract, test, test.present) for student in made]

    control = Variant(
        f"control-{context.recipe.name}",
        "",
        lambda _: Supervised(contract, config.train),
        train,
        validation,
        np.flatnonzero(train.labelled),
        config.train,
    )
    theirs = outputs(control)
    for number, (name, loss) in enumerate(LOSSES.items()):
        teacher = teacher_for(config.model_copy(update={"loss": loss}), context, config.train, fits=seeds)
        taught = replace(
            control,
            name=f"{number}-{context.recipe.name}",
            objective=lambda student, teacher=teacher, loss=loss: Distillation(
                student, teacher, contract, loss, config.train
            ),
            usable=np.arange(len(train)),
        )
        ours = outputs(taught)
        yield name, gain(contract, ours, theirs, test, name="no-distillation", resamples=1000, seed=0)


if __name__ == "__main__":
    main()
