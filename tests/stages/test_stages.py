"""Stages: what each promises beside an artifact."""

from dataclasses import replace

import pytest
import torch

from mmedge.backends import Options, find, tensorrt_package
from mmedge.errors import MismatchError, MissingDependency, MmedgeError
from mmedge.models.load import contract_of
from mmedge.recipe import MainTeacher
from mmedge.stages import distill, export, prune, train, trained
from mmedge.stages.export import verification
from mmedge.stages.prune import work
from mmedge.training.teaching import lesson, students
from tests.conftest import staged


def test_an_export_that_differs_from_its_parent_is_a_mismatch_with_exit_5(finished, context):
    made = finished.artifact("distill")
    graph, other = made.file("model.onnx"), finished.artifact("prune").file("model.onnx")
    test, contract = context.dataset.test, contract_of(made)
    assert export.verify(graph, graph, contract, test, "fp32")
    with pytest.raises(MismatchError, match="differs from its parent") as raised:
        export.verify(graph, other, contract, test, "fp32")
    assert raised.value.exit_code == 5 and str(other) in str(raised.value)


class Reached(BaseException):
    """No Exception: a cut that fails with one has lost, and the next is tried."""


@pytest.mark.parametrize("stage", ["teacher", "student", "recovery"])
def test_what_is_trained_learns_from_the_training_split_and_is_chosen_on_validation(
    finished, context, monkeypatch, stage
):
    seen = []

    def fit(module, objective, training, **_):
        seen.append((training.samples.split, training.validation.split))
        raise Reached

    recipe = context.recipe
    stages = {
        "teacher": (lesson, lambda: train.train(None, recipe.teacher, context)),
        "student": (students, lambda: distill.distill(finished.artifact("teacher"), recipe.distill, context)),
        "recovery": (work, lambda: prune.prune(finished.artifact("distill"), config, context)),
    }
    config = recipe.prune.model_copy(update={"allocation": "uniform"})
    module, run = stages[stage]
    monkeypatch.setattr(module, "fit", fit)
    with pytest.raises(Reached):
        run()
    assert seen == [("train", "validation")]


def test_a_model_that_answers_nan_is_named_with_the_sample_and_the_export_is_not_blamed(finished, context):
    made, samples = finished.artifact("distill"), context.dataset.validation
    module = context.rebuild(made)
    with torch.no_grad():
        module.head[-1].bias.fill_(float("nan"))
    with pytest.raises(MmedgeError, match="the model's own output 'logits' holds NaN") as raised:
        trained.verify(module, made.file("model.onnx"), contract_of(made), samples)
    assert raised.value.exit_code == 1 and samples.ids[0] in str(raised.value)


def test_an_export_is_compared_over_every_sample_and_subset(finished):
    for name in ("export-onnxruntime-cpu", "export-tensorrt-rtx"):
        verification = finished.artifact(name).meta["verification"]
        assert [(row["subset"], row["n"]) for row in verification] == [
            ("image", 60),
            ("audio", 60),
            ("image+audio", 60),
        ]


def test_a_tensorrt_engine_is_really_built_in_the_precision_of_the_recipe(finished):
    made = finished.artifact("export-tensorrt-rtx")
    assert made.file("engine.plan").stat().st_size > 10_000
    assert made.meta["engine"]["weight_types"]["half"] > 0 and made.meta["engine"]["batch"] == [1, 8]
    assert any("not measured" in note for note in made.meta["notes"])
    bundled = finished.out / "bundle" / "tensorrt-rtx" / "engine.plan"
    assert bundled.read_bytes() == made.file("engine.plan").read_bytes()


def test_int8_for_tensorrt_is_rewritten_to_symmetric_codes(finished, context, tmp_path, monkeypatch):
    # The classes of a hardly trained student flip at the least change; that a miss is refused is tested above.
    monkeypatch.setitem(verification.TOLERANCES, "int8", (0.5, 0.0))
    made = staged(
        export.export,
        finished.artifact("quantize"),
        find("tensorrt-rtx").options(precision="int8"),
        replace(context, part="tensorrt-rtx"),
        tmp_path / "e",
    )
    assert made.meta["engine"]["weight_types"]["int8"] > 0
    assert any("symmetric int8" in note for note in made.meta["notes"])


def test_a_precision_that_was_not_made_is_told_with_its_key(finished, context, tmp_path):
    options = Options(precision="int8")
    with pytest.raises(MmedgeError, match=r"export\.targets\.onnxruntime-cpu\.precision"):
        staged(
            export.export, finished.artifact("prune"), options, replace(context, part="onnxruntime-cpu"), tmp_path / "e"
        )
    assert not (tmp_path / "e").exists()


def test_a_missing_tensorrt_is_exit_6_with_the_command_that_installs_it():
    try:
        import tensorrt as _  # noqa: F401

        pytest.skip("tensorrt is installed here")
    except ImportError:
        pass
    with pytest.raises(MissingDependency, match=r"pip install 'mmedge\[tensorrt\]'") as raised:
        tensorrt_package.module_of("tensorrt")
    assert raised.value.exit_code == 6


def test_a_teacher_of_given_weights_is_taken_as_it_is(finished, context, tmp_path):
    weights = finished.out / "teacher" / "weights.safetensors"
    model = context.recipe.teacher.model.model_copy(update={"weights": weights})
    made = staged(train.train, None, MainTeacher(model=model, train=None), context, tmp_path / "t")
    assert made.file("weights.safetensors").read_bytes() == weights.read_bytes()
    assert any("not trained here" in note for note in made.meta["notes"])
    with pytest.raises(ValueError, match=r"name model\.weights or onnx"):
        MainTeacher(train=None)


def test_distillation_trains_its_control_on_the_same_schedule(finished):
    made = finished.artifact("distill")
    assert made.meta["students"] == ["control-0", "distilled-0"]
    assert all(made.file(f"{name}/weights.safetensors").is_file() for name in made.meta["students"])
    kept = made.file(f"{made.meta['decision']['kept']}-0/weights.safetensors")
    assert made.file("weights.safetensors").read_bytes() == kept.read_bytes()
