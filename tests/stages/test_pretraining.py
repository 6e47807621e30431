"""A teacher or a student whose encoders learn without labels first, beside the same network from nothing."""

from dataclasses import replace

import pytest
import torch

from mmedge.recipe import Pretrain
from mmedge.stages import distill, train
from tests.conftest import staged


def shortened(section, **changes):
    short = section.train.model_copy(update={"epochs": 1, "views": 1})
    return section.model_copy(update={"train": short, "pretrain": Pretrain(epochs=1), **changes})


@pytest.mark.slow
def test_students_share_their_pretraining_and_the_control_from_nothing_is_trained_as_long(
    finished, context, tmp_path, monkeypatch
):
    asked = []
    real = distill.train_student

    def noted(variant, *rest):
        asked.append((variant.name, variant.pretrain is not None, variant.train.epochs))
        return real(variant, *rest)

    monkeypatch.setattr(distill, "train_student", noted)
    whole = context.recipe.distill
    section = shortened(whole, controls=whole.controls.model_copy(update={"seeds": 1, "subset_students": False}))
    student = staged(distill.distill, finished.artifact("teacher"), section, context, tmp_path / "distill")
    told = {name: (before, epochs) for name, before, epochs in asked}
    assert told["distilled"] == told["control"] == (True, 1) and told["from-nothing"] == (False, 2)
    assert student.meta["controls"]["no-pretraining"] == {
        "students": "from-nothing",
        "against": "distilled",
        "shown": None,
    }
    assert {"distilled-0", "from-nothing-0"} <= set(student.meta["students"])


@pytest.mark.slow
def test_a_pretrained_teacher_is_compared_with_itself_from_nothing(finished, context, tmp_path):
    section = shortened(context.recipe.teacher)
    teacher = staged(train.train, None, section, replace(context, teacher=None), tmp_path / "teacher")
    assert teacher.meta["students"] == ["from-nothing-0", "pretrained-0"]
    assert teacher.meta["controls"]["no-pretraining"]["against"] == "pretrained"
    ours, nothing = (context.rebuild(teacher, name).state_dict() for name in ("pretrained-0", "from-nothing-0"))
    shipped = context.rebuild(teacher).state_dict()
    assert all(torch.equal(shipped[name], x) for name, x in ours.items())
    assert any(not torch.equal(nothing[name], x) for name, x in ours.items())
