"""Quantization: candidates, their calibration, and what is said of those that lost."""

import numpy as np
import pytest

from mmedge.errors import MismatchError
from mmedge.recipe import Quantize
from mmedge.stages import quantize
from mmedge.stages.quantize import candidates, ptq
from mmedge.stages.quantize.calibration import calibration_rows


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
    assert candidates.fastest_kept(table)["precision"] == chosen


def test_a_candidate_outside_the_budget_is_dropped(finished, context, tmp_path, monkeypatch):
    """FP32's figures are raised, so that the other candidate loses."""
    real = candidates.score
    asked = []

    def score(contract, output, targets):
        asked.append(real(contract, output, targets))
        return asked[-1] + (0.5 if len(asked) == 1 else 0)

    monkeypatch.setattr(candidates, "score", score)
    config = Quantize(candidates=("fp32", "fp16"), max_drop=0.01, max_subset_drop=1.0)
    made = quantize.quantize(finished.artifact("prune"), config, context, tmp_path / "q", "k")
    table = {row["precision"]: row for row in made.meta["candidates"]}
    assert not table["fp16"]["kept"] and table["fp16"]["why"].startswith("dropped: loses 0.5")
    assert made.meta["precision"] == "fp32"


def test_calibration_takes_training_rows_spread_over_the_classes(dataset):
    rows = calibration_rows(dataset.train, 40, seed=0)
    assert len(set(rows)) == 40 and (np.bincount(dataset.train.targets[rows], minlength=10) == 4).all()
    assert set(calibration_rows(dataset.train, 10_000, seed=0)) == set(range(240))


def test_quantize_calibrates_on_the_training_split_and_with_modalities_missing(
    finished, context, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        ptq, "int8", lambda graph, target, inputs: (seen.extend(inputs), target.write_bytes(graph.read_bytes()))
    )
    config = Quantize(candidates=("fp32", "int8"), calibration=40)
    with pytest.raises(MismatchError, match="no 8-bit kernel"):  # the copy is FP32: told, not believed
        quantize.quantize(finished.artifact("prune"), config, context, tmp_path / "q", "k")
    train = {x.tobytes() for x in np.asarray(context.dataset.train.inputs["image"])}
    assert len(seen) == 40 and all(sample["image"][0].tobytes() in train for sample in seen)
    assert {tuple(sample["present"][0]) for sample in seen} == {(True, True), (True, False), (False, True)}
    assert all(sample["image"].any() and sample["audio"].any() for sample in seen)
