"""The section ``train.privacy``, and what a whole recipe must leave out for its guarantee to hold of what ships."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from mmedge.frozen import Frozen

if TYPE_CHECKING:
    from mmedge.recipe.whole import Recipe


class Privacy(Frozen):
    """A bound on what trained weights tell of any one training sample: (epsilon, delta)-differential privacy by DP-SGD.

    Abadi et al. 2016, "Deep learning with differential privacy". Sampling and noise come from a secret seed of the
    machine's, so that the recipe's seed does not repeat such a training.
    """

    epsilon: float = Field(
        gt=0,
        le=100,
        description="The budget: whether a sample was trained on changes the probability of any outcome by a factor of"
        " e^epsilon at most. All students of which one is chosen share it.",
    )
    delta: float = Field(
        gt=0, lt=1, description="The probability that the bound does not hold; below 1 / training samples."
    )
    clip: float = Field(1.0, gt=0, description="Norm that each sample's gradient is cut to before noise is added.")


def privacy_faults(recipe: Recipe) -> Iterator[str]:
    """What contradicts the guarantee: every other use of the training samples in what ships must be private too."""
    student, teacher = recipe.distill, recipe.teacher
    for where, section in (("teacher", teacher), ("distill", student)):
        train = section.train if section else None
        if section and train and train.privacy and not section.model.factory and section.model.norm == "batch":
            yield f"{where}.model.norm: batch norm mixes the samples of a batch, and privacy is of each; say norm: group"
    if student and student.train.privacy:
        for loss in student.losses:
            if loss.hints:
                yield "distill.loss.hints: a hint trains a projection along or compares samples; no privacy is kept with one"
            if loss.kind == "dist":
                yield "distill.loss.kind: 'dist' compares the samples of a batch, and privacy is of each; say kd or dkd"
        open_teacher = teacher.trained_here and not (teacher.train and teacher.train.privacy)
        if open_teacher and any(loss.logits for loss in student.losses):
            yield (
                "distill.train.privacy: the student learns from a teacher that learns from the same samples without"
                " noise, so that no guarantee would hold; give teacher.train.privacy too, name a teacher from elsewhere"
                " (teacher.onnx, teacher.model.weights with train: null), or teach by labels alone (distill.loss.logits: 0)"
            )
    ships = student.train if student else teacher.train
    if ships and ships.privacy:
        yield from _used_again(recipe)


def _used_again(recipe: Recipe) -> Iterator[str]:
    """Stages behind a private training that look at its samples again."""
    from mmedge.recipe.compression import computes_int8

    if recipe.prune:
        yield "prune: recovery trains on the samples again, without noise; leave the section out where training is private"
    if recipe.quantize:
        named = [name for name in recipe.quantize.candidates if computes_int8(name)]
        if named:
            yield (
                f"quantize.candidates: {', '.join(named)} would be calibrated on training samples, which privacy does not"
                " allow; say [fp32, fp16, int8-weights, int8-dynamic]"
            )


def shared_by(recipe: Recipe) -> int:
    """How many trainings share the student's budget: all of which one is chosen."""
    assert recipe.distill is not None
    config = recipe.distill
    sides = 1 + (config.controls.no_distillation and config.labels != "none")
    return len(config.losses) - 1 + config.controls.seeds * sides
