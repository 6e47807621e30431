"""Distillation's controls: which student ships, and what it is compared with."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmedge.models.ensemble import members_of
from mmedge.models.load import contract_of
from mmedge.pipeline import fold as pipeline
from mmedge.progress import Silent
from mmedge.recipe import Controls, Pretrain
from mmedge.stages import distill
from mmedge.training.loop.fit import Fitted
from mmedge.training.teaching.controls import same_modality_teacher, takes_others
from mmedge.training.teaching.lesson import Lesson
from mmedge.training.teaching.students import Student, Variant, train_student
from tests.conftest import parsed, staged


def section(context, **changes):
    whole = context.recipe.distill
    train = whole.train.model_copy(update={"epochs": 1, "views": 1})
    return whole.model_copy(update={"train": train, **changes})


@pytest.mark.long
@pytest.mark.parametrize(("gain", "kept"), [(0.1, "distilled"), (0.0, "control"), (-0.1, "control")])
def test_the_better_student_on_validation_ships_and_the_notes_say_which(
    finished, context, tmp_path, monkeypatch, gain, kept
):
    real = distill.decide

    def decide(contract, distilled, control, validation, **options):
        assert validation.split == "validation"  # never the test split
        # The students themselves are hardly trained: give one side the true answers of a share of the rows.
        ours, theirs = (
            {n: (m, {head: x.copy() for head, x in o.items()}) for n, (m, o) in side[0].items()}
            for side in (distilled, control)
        )
        better, worse = (ours, theirs) if gain >= 0 else (theirs, ours)
        for name, (_, outputs) in better.items():
            output = outputs["logits"]
            worse[name] = (worse[name][0], {"logits": output.copy()})
            if gain:
                output[range(len(output)), validation.targets["logits"]] = 100.0
        return real(contract, [ours], [theirs], validation, **options)

    monkeypatch.setattr(distill, "decide", decide)
    made = staged(distill.distill, finished.artifact("teacher"), section(context), context, tmp_path / "d")
    assert made.meta["decision"]["kept"] == kept
    said = "distillation kept" if kept == "distilled" else "do not distil: the student without a teacher is kept"
    assert any(note.startswith(said) for note in made.meta["notes"])
    student = made.file(f"{kept}-0/weights.safetensors")
    assert made.file("weights.safetensors").read_bytes() == student.read_bytes()


def test_without_the_control_nothing_is_decided_and_that_is_said(finished, context, tmp_path):
    config = section(context, controls=Controls(no_distillation=False, seeds=1))
    made = staged(distill.distill, finished.artifact("teacher"), config, context, tmp_path / "d")
    assert made.meta["students"] == ["distilled-0"] and made.meta["controls"] == {}
    assert any("was not measured" in note for note in made.meta["notes"])


@pytest.mark.long
def test_a_student_alone_is_shown_one_subset_and_learns_nothing_of_the_rest(finished, context, tmp_path):
    controls = Controls(no_distillation=False, seeds=1, subset_students=True)
    made = staged(
        distill.distill, finished.artifact("teacher"), section(context, controls=controls), context, tmp_path / "d"
    )
    assert made.meta["students"] == ["alone-audio-0", "alone-image-0", "distilled-0"]
    assert made.meta["controls"]["alone-image"] == {
        "students": "alone-image",
        "against": "distilled",
        "shown": ["image"],
    }
    torch.manual_seed(context.recipe.seed)
    fresh = context.build(context.recipe.distill.model, contract_of(made)).state_dict()
    alone = context.rebuild(made, "alone-image-0").state_dict()
    moved = {name for name in fresh if "project" in name and not torch.allclose(fresh[name], alone[name], rtol=0.02)}
    assert moved and all("encoders.image" in name for name in moved)


@pytest.mark.long
def test_the_report_compares_on_the_test_split_what_each_control_is_about(finished, values, tmp_path):
    values["distill"]["controls"] = {"seeds": 1, "subset_students": True, "same_modality_teacher": True}
    values["distill"]["model"]["modalities"] = ["audio"]
    values["distill"]["model"]["encoders"].pop("image")
    values["distill"]["train"]["augment"] = {}
    values |= {"prune": None, "quantize": None}
    outcome = pipeline.run(
        parsed(values),
        finished.copied(tmp_path / "out"),
        code=tmp_path,
        progress=Silent(),
        start=finished.out / "teacher",
        only="distill",
    )
    controls = {control["name"]: control for control in outcome.report.record()["controls"]}
    assert list(controls) == ["no-distillation", "same-modality-teacher"]  # one modality has no proper subset
    assert all(control["quality"]["split"] == "test" for control in controls.values())
    decision = outcome.report.record()["stages"][-1]["decision"]
    assert decision["kept"] == ("distilled" if decision["gain"] > 0 else "control")


@pytest.mark.long
def test_a_control_that_cannot_be_had_and_one_that_broke_off_are_told(finished, context, tmp_path, monkeypatch):
    def training(variant, model, contract, context, number):
        student = train_student(variant, model, contract, context, number)
        broke = replace(student.fitted, diverged=True, notes=("training diverged in epoch 2",))
        return replace(student, fitted=broke) if variant.name == "control" and number == 1 else student

    monkeypatch.setattr(distill, "train_student", training)
    controls = Controls(seeds=2, same_modality_teacher=True)
    config = section(context, controls=controls)
    notes = staged(distill.distill, finished.artifact("teacher"), config, context, tmp_path / "d").meta["notes"]
    assert any("same_modality_teacher left out" in note for note in notes)
    assert "control-1: training diverged in epoch 2" in notes or "training diverged in epoch 2" in notes


def test_the_same_modality_teacher_knows_the_students_modalities_only(finished, context):
    whole = context.dataset.contract
    student = whole.only(["image"])
    assert takes_others(whole, student) and not takes_others(student, whole)
    config = section(context)
    hints = (*config.loss.hints, config.loss.hints[0].model_copy(update={"teacher": "encoders.audio"}))
    config = config.model_copy(update={"loss": config.loss.model_copy(update={"hints": hints})})
    teacher, loss = same_modality_teacher(config, student, context)
    assert [hint.teacher for hint in loss.hints] == ["fusion"]  # there is no encoder of the sound to hint at
    assert teacher.widths == [24]


@pytest.mark.parametrize(("kind", "first"), [("masked", "masked"), ("contrastive", None)])
def test_controls_of_fewer_modalities_are_as_many_networks_and_learn_first_what_these_allow(
    finished, context, monkeypatch, kind, first
):
    made = []

    def taught(self, module, train, name, pretrain):
        made.append((len(members_of(module)), pretrain and pretrain.kind))

    monkeypatch.setattr(Lesson, "taught", taught)
    pretrain, whole = Pretrain(kind=kind), context.recipe.teacher
    model = whole.model.model_copy(update={"ensemble": 2})
    theirs = whole.model_copy(update={"model": model, "pretrain": pretrain})
    changed = replace(context, recipe=context.recipe.model_copy(update={"teacher": theirs}))
    contract, train = context.dataset.contract, context.dataset.train
    same_modality_teacher(section(context), contract.only(["image"]), changed)
    assert made == [(2, first)]
    usable = np.arange(len(train))
    every = Variant("d", "d", lambda student: None, train, train, usable, whole.train, pretrain=pretrain)
    alone = every.alone(("image",), contract).pretrain
    assert (alone and alone.kind) == first


def test_the_same_modality_teacher_sees_the_samples_as_the_recipes_teacher_does(finished, context, values):
    values["teacher"]["preprocessing"] = {"image": {"kind": "image", "height": 14, "width": 14, "channels": 1}}
    context = replace(context, recipe=parsed(values))
    context = replace(context, dataset=replace(context.dataset, out=finished.copied(context.work.parent / "out")))
    shapes = []

    def forward(_module, _inputs, named, _output):
        shapes.extend([tuple(named["image"].shape[1:])] if "image" in named else [])

    hook = torch.nn.modules.module.register_module_forward_hook(forward, with_kwargs=True)
    try:
        teacher, _ = same_modality_teacher(section(context), context.dataset.contract.only(["image"]), context)
        assert teacher.widths == [24]
    finally:
        hook.remove()
    assert set(shapes) == {(1, 14, 14)}


def student(*figures):
    """One whose epochs had these figures on validation."""
    return Student(torch.nn.Identity(), Fitted([{"selection": figure} for figure in figures], len(figures), ()))


def test_a_students_selection_is_its_best_epochs():
    assert student(0.2, 0.4, 0.3).selection == 0.4


def test_a_student_that_still_learns_at_the_end_is_told_with_what_it_gained_there():
    (said,) = distill._unfinished([student(0.1, 0.3, 0.5, 0.7, 0.75, 0.72), student(0.1, 0.3, 0.5, 0.7, 0.70, 0.73)])
    assert said.startswith("the taught student still rose by 0.040 on validation in the last quarter")
    for done in ([0.1, 0.7, 0.8, 0.8, 0.803, 0.8], [0.1, 0.9, 0.8, 0.7], [0.5]):
        assert distill._unfinished([student(*done)]) == ()
