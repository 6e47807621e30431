"""Stages: what each promises beside an artifact."""

import numpy as np
import pytest

from mmedge.errors import MismatchError, MissingDependency, MmedgeError
from mmedge.models.load import contract_of
from mmedge.recipe import Quantize, TargetOptions, Teacher
from mmedge.runtime.targets import tensorrt
from mmedge.stages import export, quantize, train


def test_quantize_has_a_row_a_candidate_with_the_reason_it_was_kept_or_not(finished):
    made = finished.artifact("quantize")
    table = {row["precision"]: row for row in made.meta["candidates"]}
    assert list(table) == ["fp32", "fp16", "int8"]
    assert table["fp32"]["ratio_to_fp32"] == 1 and table["int8"]["int8_kernels"]
    for name, row in table.items():
        assert row["kept"] and row["why"].startswith("kept: loses")
        assert set(row["subsets_validation"]) == {"image", "audio", "image+audio"} and row["n"] == 50
        assert made.file(f"{name}.onnx").stat().st_size == row["size_bytes"]
    assert made.file("model.onnx").read_bytes() == made.file(f"{made.meta['precision']}.onnx").read_bytes()


def row(precision, p50, kept=True):
    return {"precision": precision, "p50_ms": p50, "ratio_to_fp32": p50, "kept": kept}


@pytest.mark.parametrize(
    ("table", "chosen"),
    [
        ([row("fp32", 1.0), row("fp16", 1.2), row("int8", 0.5)], "int8"),
        ([row("fp32", 1.0), row("fp16", 1.2), row("int8", 0.5, kept=False)], "fp32"),
        ([row("fp32", 1.0), row("fp16", 0.99), row("int8", 1.5)], "fp32"),  # faster, but within timing noise
        ([row("fp32", 1.0), row("fp16", 0.9), row("int8", 0.8, kept=False)], "fp16"),
    ],
)
def test_the_fastest_candidate_inside_the_budget_is_chosen(table, chosen):
    assert quantize.fastest_kept(table)["precision"] == chosen


def test_a_candidate_outside_the_budget_is_dropped(finished, context, tmp_path, monkeypatch):
    """FP32's figures are raised, so that the other candidate loses."""
    real = quantize.score
    asked = []

    def score(contract, output, targets):
        asked.append(real(contract, output, targets))
        return asked[-1] + (0.5 if len(asked) == 1 else 0)

    monkeypatch.setattr(quantize, "score", score)
    config = Quantize(candidates=("fp32", "fp16"), max_drop=0.01, max_subset_drop=1.0)
    made = quantize.quantize(finished.artifact("prune"), config, context, tmp_path / "q", "k")
    table = {row["precision"]: row for row in made.meta["candidates"]}
    assert not table["fp16"]["kept"] and table["fp16"]["why"].startswith("dropped: loses 0.5")
    assert made.meta["precision"] == "fp32"


def test_calibration_takes_training_rows_spread_over_the_classes(dataset):
    rows = quantize.calibration_rows(dataset.train, 40, seed=0)
    assert len(set(rows)) == 40 and (np.bincount(dataset.train.targets[rows], minlength=10) == 4).all()
    assert set(quantize.calibration_rows(dataset.train, 10_000, seed=0)) == set(range(240))


def test_quantize_calibrates_on_the_training_split_and_with_modalities_missing(
    finished, context, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        quantize, "_int8", lambda graph, target, inputs: (seen.extend(inputs), target.write_bytes(graph.read_bytes()))
    )
    config = Quantize(candidates=("fp32", "int8"), calibration=40)
    with pytest.raises(MismatchError, match="no 8-bit kernel"):  # the copy is FP32: told, not believed
        quantize.quantize(finished.artifact("prune"), config, context, tmp_path / "q", "k")
    train = {x.tobytes() for x in np.asarray(context.dataset.train.inputs["image"])}
    assert len(seen) == 40 and all(sample["image"][0].tobytes() in train for sample in seen)
    assert {tuple(sample["present"][0]) for sample in seen} == {(True, True), (True, False), (False, True)}
    assert all(sample["image"].any() and sample["audio"].any() for sample in seen)


def test_an_export_that_differs_from_its_parent_is_a_mismatch_with_exit_5(finished, context):
    made = finished.artifact("distill")
    graph, other = made.file("model.onnx"), finished.artifact("prune").file("model.onnx")
    test, contract = context.dataset.test, contract_of(made)
    assert export.verify(graph, graph, contract, test, "fp32")
    with pytest.raises(MismatchError, match="differs from its parent") as raised:
        export.verify(graph, other, contract, test, "fp32")
    assert raised.value.exit_code == 5 and str(other) in str(raised.value)


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
    monkeypatch.setitem(export.TOLERANCES, "int8", (0.5, 0.0))
    made = export.export(
        finished.artifact("quantize"),
        TargetOptions(precision="int8"),
        context,
        tmp_path / "e",
        "k",
        name="tensorrt-rtx",
    )
    assert made.meta["engine"]["weight_types"]["int8"] > 0
    assert any("symmetric int8" in note for note in made.meta["notes"])


def test_a_precision_that_was_not_made_is_told_with_its_key(finished, context, tmp_path):
    options = TargetOptions(precision="int8")
    with pytest.raises(MmedgeError, match=r"export\.targets\.onnxruntime-cpu\.precision"):
        export.export(finished.artifact("prune"), options, context, tmp_path / "e", "k", name="onnxruntime-cpu")
    assert not (tmp_path / "e").exists()


def test_a_missing_tensorrt_is_exit_6_with_the_command_that_installs_it():
    try:
        import tensorrt as _  # noqa: F401

        pytest.skip("tensorrt is installed here")
    except ImportError:
        pass
    with pytest.raises(MissingDependency, match=r"pip install 'mmedge\[tensorrt\]'") as raised:
        tensorrt.module_of("tensorrt")
    assert raised.value.exit_code == 6


def test_a_teacher_of_given_weights_is_taken_as_it_is(finished, context, tmp_path):
    weights = finished.out / "teacher" / "weights.safetensors"
    model = context.recipe.teacher.model.model_copy(update={"weights": weights})
    made = train.train(None, Teacher(model=model, train=None), context, tmp_path / "t", "k")
    assert made.file("weights.safetensors").read_bytes() == weights.read_bytes()
    assert any("not trained here" in note for note in made.meta["notes"])
    with pytest.raises(ValueError, match=r"name model\.weights or onnx"):
        Teacher(train=None)


def test_distillation_trains_its_control_on_the_same_schedule(finished):
    made = finished.artifact("distill")
    assert made.meta["students"] == ["control-0", "distilled-0"]
    assert all(made.file(f"{name}/weights.safetensors").is_file() for name in made.meta["students"])
    assert made.file("weights.safetensors").read_bytes() == made.file("distilled-0/weights.safetensors").read_bytes()
