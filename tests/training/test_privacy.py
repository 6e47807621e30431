"""Private students of a recipe: what they spend together, what is told with it, and what would break the promise."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from mmedge.errors import MissingDependency, UsageError
from mmedge.pipeline import fold as pipeline
from mmedge.progress import Silent
from mmedge.recipe import InvalidRecipe
from mmedge.recipe.privacy import shared_by
from mmedge.report.table import print_report
from mmedge.stages import distill
from mmedge.training.loop.accounting import Phase, epsilon_of
from mmedge.training.privacy import budget_faults, network_faults, refuse_open_teacher, student_noise
from tests.conftest import parsed, staged, write_recipe

BUDGET = {"epsilon": 8.0, "delta": 1e-3}


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 10))

    def forward(self, image, audio):
        return self.layers(image) + 0 * audio.flatten(1).sum(1, keepdim=True)


@pytest.fixture
def private(values):
    """The tiny recipe with a private student that learns from labels alone, and without what trains again."""
    values["distill"]["train"] |= {"privacy": dict(BUDGET), "epochs": 1}
    values["distill"]["model"]["norm"] = "group"
    values["distill"]["loss"] = {"logits": 0}
    values["prune"] = None
    values["quantize"] |= {"candidates": ["fp32", "int8-weights"], "fallbacks": []}
    values["export"] = {"targets": {"onnxruntime-cpu": {}}}
    return values


@pytest.mark.long
def test_all_students_of_which_one_ships_share_the_budget_and_its_artifact_tells_what_they_spent(
    finished, private, context, tmp_path
):
    recipe = parsed(private)
    train = replace(context.dataset.train, groups=np.arange(240) // 3)
    context = replace(context, recipe=recipe, dataset=replace(context.dataset, train=train))
    made = staged(distill.distill, finished.artifact("teacher"), recipe.distill, context, tmp_path / "d")
    told = made.meta["privacy"]
    assert told["trainings"] == shared_by(recipe) == 2 and told["steps"] == 2 * 7 and told["sample_rate"] == 32 / 240
    spent = epsilon_of([Phase(told["noise_multiplier"], 32 / 240, 7)] * 2, 1e-3)
    assert told["epsilon"] == pytest.approx(spent) and 0.98 * 8 <= spent <= 8
    assert told["noise_multiplier"] == student_noise(recipe, 240, 240)
    words = "; ".join(told["not_covered"])
    for each in ("in 80 groups of up to 3,", "validation samples", "fitted on training samples", "without noise"):
        assert each in words
    assert any(note.startswith("private for each training sample: epsilon 7.9") for note in made.meta["notes"])


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("distill", "loss", "logits"), 1.0, "distill.train.privacy: the student learns from a teacher"),
        (("distill", "loss"), {"logits": 0, "hints": [{}]}, "distill.loss.hints: a hint"),
        (("distill", "candidates"), [{"kind": "dist"}], "'dist' compares the samples"),
        (("distill", "model", "norm"), "batch", "distill.model.norm: batch norm mixes"),
        (("data", "task"), "retrieval", "distill.train.privacy: a pair is learnt against"),
        (("prune",), {}, "prune: recovery trains on the samples again"),
        (("quantize", "candidates"), ["fp32", "int8"], "quantize.candidates: int8 would be calibrated on training"),
        (("quantize", "train"), {"privacy": BUDGET}, "is of teacher and distill alone"),
        (("distill", "train", "modality_dropout"), "every", "'privacy' cannot be kept with 'modality_dropout: every'"),
        (("distill", "train", "sampling"), "balanced", "'privacy' cannot be kept with 'sampling: balanced'"),
        (("distill", "train", "class_weights"), "balanced", "cannot be kept with 'class_weights: balanced'"),
        (("distill", "train", "precision"), "bf16", "cannot be kept with 'precision: bf16'"),
        (("distill", "train", "compile"), True, "cannot be kept with 'compile: true'"),
        (("distill", "train", "privacy", "epsilon"), 0, "greater than 0"),
    ],
)
def test_a_recipe_that_would_break_the_promise_is_refused_in_a_sentence(private, place, value, told):
    parsed(private)
    at = private
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(InvalidRecipe, match=told.replace("(", r"\(")):
        parsed(private)


def test_a_private_teacher_may_teach_and_its_part_is_added(finished, private, context, tmp_path):
    private["distill"]["loss"] = {"logits": 1.0}
    private["teacher"]["train"] |= {"privacy": {"epsilon": 4.0, "delta": 1e-4}}
    private["teacher"]["model"]["norm"] = "group"
    recipe = parsed(private)
    context = replace(context, recipe=recipe)
    with pytest.raises(UsageError, match="the teacher was trained without noise"):
        refuse_open_teacher(finished.artifact("teacher"), context)
    teacher = finished.artifact("teacher")
    spent = {"noise_multiplier": 1.0, "clip": 1.0, "sample_rate": 0.1, "steps": 7, "trainings": 1, "not_covered": []}
    teacher.meta["privacy"] = {"epsilon": 4.0, "delta": 1e-4, **spent}
    refuse_open_teacher(teacher, context)
    record = distill.spent_record(recipe.distill.train, [Phase(2.0, 0.1, 7)], context, teacher=teacher)
    assert record.teacher_epsilon == 4.0 and record.delta == pytest.approx(1.1e-3)
    assert record.epsilon == pytest.approx(4.0 + epsilon_of([Phase(2.0, 0.1, 7)], 1e-3))
    assert "(4 of it its teacher's)" in str(record)


def test_check_tells_a_budget_that_cannot_be_kept_a_network_that_mixes_samples_and_a_missing_opacus(
    private, dataset, mmedge, monkeypatch, tmp_path
):
    private["distill"]["train"]["privacy"]["epsilon"] = 0.02
    told = mmedge(
        "check", write_recipe(private, tmp_path / "r.yaml"), "--out", tmp_path / "out", "--json", "--no-media"
    )
    assert told.code == 1, told.err
    assert '"kind": "privacy"' in told.out and "epsilon 0.02 with delta 0.001 cannot be kept over 14 steps" in told.out
    private["distill"]["model"] = {"factory": "own:Normed"}
    (fault,) = network_faults(parsed(private), dataset.contract, lambda section: Normed)
    assert "BatchNorm" in fault.what and fault.module == "distill.model"
    monkeypatch.setitem(__import__("sys").modules, "opacus.accountants", None)
    (fault,) = budget_faults(parsed(private), 240, 240)
    assert "needs opacus" in fault.what and fault.module == "distill.train.privacy"
    with pytest.raises(MissingDependency):
        student_noise(parsed(private), 240, 240)


@pytest.mark.slow
def test_a_private_run_tells_its_epsilon_in_report_bundle_and_terminal(private, tmp_path, capfd):
    outcome = pipeline.run(parsed(private), tmp_path / "out", code=tmp_path, progress=Silent())
    stages = {stage.stage: stage for stage in outcome.report.stages}
    told = stages["distill"].privacy
    assert told.epsilon <= 8 and stages["teacher"].privacy is None
    assert all(stages[name].privacy == told for name in ("quantize", "export-onnxruntime-cpu"))
    assert '"privacy"' in (tmp_path / "out/bundle/manifest.json").read_text()
    capfd.readouterr()
    print_report(outcome.report)
    said = capfd.readouterr().err
    assert said.count("private for each training sample: epsilon 7.9") == 1


@pytest.mark.slow
def test_a_private_run_that_is_interrupted_spends_no_more_when_it_goes_on(private, tmp_path):
    """Its noise is secret and drawn afresh in each run: what it spends, and what is made of it, are what must be equal."""
    private["distill"]["train"]["epochs"] = 3

    class Stopped(Silent):
        def step(self, task, done, total, text=""):
            if list((tmp_path / "b/.work").glob("distill-*/*.safetensors")):
                raise KeyboardInterrupt

    whole = pipeline.run(parsed(private), tmp_path / "a", code=tmp_path, progress=Silent())
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(parsed(private), tmp_path / "b", code=tmp_path, progress=Stopped())
    again = pipeline.run(parsed(private), tmp_path / "b", code=tmp_path, progress=Silent())
    spent = [{stage.stage: stage.privacy for stage in run.report.stages} for run in (whole, again)]
    assert spent[0] == spent[1] and spent[0]["distill"].steps == 2 * 3 * 7
