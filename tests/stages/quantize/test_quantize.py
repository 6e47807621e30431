"""Quantization: candidates, what is kept, and what is said of those that lost."""

import dataclasses
import shutil

import numpy as np
import onnx
import pytest

from mmedge.errors import MismatchError, UsageError
from mmedge.graph import qdq
from mmedge.pipeline.judging import missed
from mmedge.recipe import Quantize
from mmedge.report.schema import CandidateRecord
from mmedge.stages import quantize
from mmedge.stages.export.choice import candidates_of
from mmedge.stages.preference import best_kept
from mmedge.stages.quantize import candidates, evaluation
from tests.conftest import staged


def test_quantize_has_a_row_a_candidate_with_the_reason_it_was_kept_or_not(finished):
    made = finished.artifact("quantize")
    table = {row["precision"]: row for row in made.meta["candidates"]}
    assert list(table) == ["fp32", "fp16", "int8", "int8-mixed"]
    assert table["int8-mixed"]["int8_layers"]["int8"] == table["int8-mixed"]["int8_layers"]["asked"] > 0
    assert 0 <= table["int8"]["saturation"] < 1
    assert table["fp32"]["ratio_to_fp32"] == 1 and table["int8"]["int8_kernels"]
    for name, row in table.items():
        assert row["kept"] and row["why"].startswith("kept: " if name == "fp32" else "kept: loses")
        assert row["drop_ci95"][0] <= row["drop"] <= row["drop_ci95"][1]
        assert set(row["subsets_validation"]) == {"image", "audio", "image+audio"} and row["n"] == 50
        assert made.file(f"{name}.onnx").stat().st_size == row["size_bytes"]
    assert made.file("model.onnx").read_bytes() == made.file(f"{made.meta['precision']}.onnx").read_bytes()


def row(precision, p50, kept=True, quality=0.9, layers=None, size=1, unproven=False):
    return CandidateRecord(
        precision=precision,
        quality_validation=quality,
        n=50,
        drop=0.9 - quality,
        drop_ci95=(0.0, 1.0),
        p50_ms=p50,
        ratio_to_fp32=p50,
        size_bytes=size,
        kept=kept,
        unproven=unproven,
        why="",
        int8_layers=layers,
    )


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
    assert best_kept(table).precision == chosen


@pytest.mark.parametrize(
    ("table", "better"),
    [
        ([row("fp32", 1.0), row("int8", 0.5, kept=False, unproven=True)], "int8 (0.50 x"),
        ([row("fp32", 1.0), row("fp16", 0.9), row("int8", 0.8, kept=False, unproven=True)], "int8 (0.80 x"),
        ([row("fp32", 1.0), row("int8", 0.5, kept=False)], None),  # it loses too much by its figure, too
        ([row("fp32", 1.0), row("fp16", 1.1, kept=False, unproven=True)], None),
        ([row("fp32", 1.0), row("int8", 0.5), row("int8-mixed", 0.5, kept=False, unproven=True)], None),
    ],
)
def test_what_would_be_taken_by_its_figure_and_is_not_proved_is_told(table, better):
    notes = quantize._by_its_figure(best_kept(table), table, "latency")
    assert [note.startswith(better) and "50 samples cannot prove" in note for note in notes] == (
        [True] if better else []
    )


def test_a_candidate_that_so_few_samples_cannot_prove_to_be_inside_the_budget_is_dropped(finished, context, tmp_path):
    """Of fifty samples not one is answered otherwise, which leaves a loss of six points open; a hundredth is allowed."""
    config = Quantize(candidates=("fp32", "fp16"), max_drop=0.01, max_subset_drop=1.0)
    made = staged(quantize.quantize, finished.artifact("prune"), config, context, tmp_path / "q")
    table = {row["precision"]: row for row in made.meta["candidates"]}
    assert not table["fp16"]["kept"] and "50 samples cannot tell that no more is lost" in table["fp16"]["why"]
    assert table["fp16"]["drop_bound"] > 0.05 and table["fp32"]["drop_bound"] == 0 and made.meta["precision"] == "fp32"


def test_an_ignored_layer_that_does_not_exist_is_told_with_the_close_ones(finished, context, tmp_path):
    config = Quantize(candidates=("fp32", "int8"), calibration=8, ignore=("encoders.audio.featurs.0",))
    with pytest.raises(UsageError, match=r"quantize\.ignore.*close ones are .*encoders\.audio\.features\.0") as raised:
        staged(quantize.quantize, finished.artifact("prune"), config, context, tmp_path / "q")
    assert raised.value.exit_code == 2 and not (tmp_path / "q").exists()


@pytest.mark.long
def test_an_ignored_branch_stays_float_and_what_cannot_be_made_is_told(finished, context, tmp_path):
    config = Quantize(
        candidates=("fp32", "bf16", "int8"), calibration=300, ignore=("audio",), max_drop=1.0, max_subset_drop=1.0
    )
    made = staged(quantize.quantize, finished.artifact("prune"), config, context, tmp_path / "q")
    layers = qdq.layers(onnx.load(made.file("int8.onnx")))
    assert layers and {layer.branch for layer in layers} == {"image", "fusion"}
    notes = "\n".join(made.meta["notes"])
    assert "bf16: not made: ONNX Runtime has no bfloat16" in notes
    assert "calibrated on 240 samples, all there are; 300 were asked for" in notes
    assert made.meta["calibration"] == {"samples": 240, "gaps": []}


@pytest.mark.long
@pytest.mark.parametrize("first", ["int8", "int8-histogram"])
def test_fallbacks_are_tried_until_one_is_inside_the_budget(finished, context, tmp_path, monkeypatch, first):
    """All outputs are real but those of the INT8 that the recipe names, plain or not, which are turned round."""
    real = evaluation.evaluator

    def lowered(contract, samples):
        evaluate = real(contract, samples)

        def turned(graph):
            scored = evaluate(graph)
            if graph.name != f"{first}.onnx":
                return scored
            outputs = {
                name: (rows, {head: -x for head, x in given.items()}) for name, (rows, given) in scored.outputs.items()
            }
            return dataclasses.replace(scored, outputs=outputs)

        return turned

    monkeypatch.setattr(quantize, "evaluator", lowered)
    config = Quantize(
        candidates=("fp32", first),
        fallbacks=("int8-extremes", "int8-percentile"),
        calibration=8,
        max_drop=0.2,
        max_subset_drop=1.0,
    )
    made = staged(quantize.quantize, finished.artifact("prune"), config, context, tmp_path / "q")
    assert [row["precision"] for row in made.meta["candidates"]] == ["fp32", first, "int8-extremes"]
    assert not made.file("int8-percentile.onnx").exists()


def test_a_required_precision_outside_the_budget_is_exit_3_with_the_best_kept_and_named(tmp_path):
    table = candidates.Table(
        rows=[
            row("fp32", 1.0),
            row("int8", 0.5, kept=False, quality=0.6),
            row("int8-mixed", 0.7, kept=False, quality=0.8),
        ]
    )
    for name in ("fp32", "int8", "int8-mixed"):
        (tmp_path / f"{name}.onnx").write_text(name)
    notes: list[str] = []
    choice = quantize.concluded(table, Quantize(candidates=("fp32", "int8"), require="int8"), tmp_path, notes)
    assert choice.precision == "int8-mixed" and (tmp_path / "model.onnx").read_text() == "int8-mixed"
    assert "the best that was found is int8-mixed" in choice.notes[0]
    ((gate, code),) = missed(choice.misses)
    assert gate.name == "max_drop of int8" and not gate.passed and code == 3
    with pytest.raises(ValueError, match="needs int8 among 'candidates'"):
        Quantize(candidates=("fp32", "fp16"), require="int8")


def test_a_size_that_is_asked_for_leaves_what_is_smaller_else_the_smallest_with_exit_4(tmp_path):
    rows = [
        row("fp32", 1.0, size=90_000),
        row("int8", 0.5, size=30_000),
        row("int8-weights", 0.9, size=25_000),
        row("int4-weights", 0.8, kept=False, size=15_000),
    ]
    for each in rows:
        (tmp_path / f"{each.precision}.onnx").write_text(each.precision)

    def choice(size):
        notes: list[str] = []
        return quantize.concluded(candidates.Table(rows=rows), Quantize(max_size_kb=size), tmp_path, notes), notes

    assert choice(100)[0].precision == "int8" and choice(28)[0].precision == "int8-weights"
    smallest, notes = choice(20)
    assert smallest.precision == "int8-weights" and "int8-weights, of 25.0 KB, is the smallest" in notes[0]
    ((gate, code),) = missed(smallest.misses)
    assert (gate.name, gate.limit, gate.value, gate.passed, code) == ("max_size_kb", 20, 25.0, False, 4)


def test_a_network_as_small_as_asked_for_is_made_by_weights_alone(finished, context, tmp_path):
    parent = finished.artifact("prune")
    whole = parent.file("model.onnx").stat().st_size / 1000
    config = Quantize(candidates=("fp32",), fallbacks=(), max_size_kb=whole * 0.9, max_drop=1.0, max_subset_drop=1.0)
    made = staged(quantize.quantize, parent, config, context, tmp_path / "q")
    assert made.meta["precision"] in ("int8-weights", "int4-weights") and not made.meta.get("misses")
    assert made.file("model.onnx").stat().st_size <= whole * 900
    named = {node.name for node in onnx.load(made.file("model.onnx")).graph.node}
    assert len(named) > 1  # names go only where they are too much
    weights = made.file("int8-weights.onnx").stat().st_size / 1000
    config = config.model_copy(update={"max_size_kb": weights * 0.9})
    shorter = staged(quantize.quantize, parent, config, context, tmp_path / "s")
    assert shorter.file("int8-weights.onnx").stat().st_size <= weights * 900
    assert any("have no names of meaning" in note for note in shorter.meta["notes"])


def test_weights_in_8_bits_with_float_arithmetic_are_not_the_int8_that_is_required(tmp_path):
    rows = [row("fp32", 1.0), row("int8", 0.5, kept=False), row("int8-weights", 0.9)]
    table = candidates.Table(rows=rows)
    (tmp_path / "int8.onnx").write_text("int8")
    config = Quantize(candidates=("fp32", "int8", "int8-weights"), require="int8")
    choice = quantize.concluded(table, config, tmp_path, [])
    assert choice.precision == "int8" and [miss.exit for miss in choice.misses] == [3]


def test_a_taken_graph_with_a_layer_that_runs_in_float_for_no_reason_is_a_mismatch_with_exit_5(graphs, tmp_path):
    proof = qdq.prove(graphs[0], onnx.load(graphs[0]))  # as if the runtime fused nothing
    table = candidates.Table(rows=[row("fp32", 1.0), row("int8", 0.5, layers=proof)])
    with pytest.raises(MismatchError, match=r"ignore: \[encoders\.image\.features\.0") as raised:
        quantize.concluded(table, Quantize(), tmp_path, [])
    assert raised.value.exit_code == 5
    table.rows[1] = row("int8", 0.5, kept=False, layers=proof)  # what is not taken need not be what it says
    (tmp_path / "fp32.onnx").write_text("fp32")
    assert quantize.concluded(table, Quantize(), tmp_path, []).precision == "fp32"


def test_int8_that_nobody_required_and_that_does_not_run_is_a_row_that_lost(finished, context, tmp_path, monkeypatch):
    """What NNCF gives has no 8-bit layer; FP16's converter breaks: FP32 is taken, and both reasons are told."""

    def broken(graph, target):
        raise KeyError("axes")

    monkeypatch.setattr(
        candidates.ptq, "int8", lambda graph, target, inputs, variant: shutil.copyfile(graph.graph, target)
    )
    monkeypatch.setattr(candidates.precision, "to_fp16", broken)
    config = Quantize(candidates=("fp32", "fp16", "int8"), fallbacks=(), calibration=8, qat="never")
    made = staged(quantize.quantize, finished.artifact("prune"), config, context, tmp_path / "q")
    table = {row["precision"]: row for row in made.meta["candidates"]}
    assert made.meta["precision"] == "fp32" and list(table) == ["fp32", "int8", "fp16"]
    assert not table["int8"]["kept"] and "no 8-bit kernel" in table["int8"]["why"]
    # What could not be made is a row too: it has no figures, and none is invented.
    assert table["fp16"] == {"precision": "fp16", "kept": False, "why": "not made: KeyError: 'axes'"}
    assert "fp16: not made: KeyError: 'axes'" in made.meta["notes"]
    assert list(candidates_of(made)) == ["fp32", "int8"]


def test_where_calibration_fails_int8_is_a_row_that_lost_unless_it_is_required(
    finished, context, tmp_path, monkeypatch
):
    def broken(*_, **__):
        raise RuntimeError("the graph does not run with its inner tensors as outputs")

    monkeypatch.setattr(quantize.calibration, "calibrated", broken)
    config = Quantize(candidates=("fp32", "int8", "int8-mixed"), qat="never")
    made = staged(quantize.quantize, finished.artifact("prune"), config, context, tmp_path / "q")
    why = "not made: calibration fails: RuntimeError: the graph does not run with its inner tensors as outputs"
    assert made.meta["precision"] == "fp32" and made.meta["candidates"][1:] == [
        {"precision": name, "kept": False, "why": why} for name in ("int8", "int8-mixed")
    ]
    with pytest.raises(RuntimeError, match="inner tensors"):
        required = config.model_copy(update={"require": "int8"})
        staged(quantize.quantize, finished.artifact("prune"), required, context, tmp_path / "r")


def test_a_candidate_that_answers_infinity_lost(finished, context, tmp_path, monkeypatch):
    def huge(graph, target):
        model = onnx.load(graph)
        model.graph.output[0].name, shown = "inner", model.graph.output[0].name
        for node in model.graph.node:
            node.output[:] = ["inner" if name == shown else name for name in node.output]
        scale = onnx.numpy_helper.from_array(np.float32(3e38).reshape(1), "huge")
        model.graph.initializer.append(scale)
        model.graph.node.append(onnx.helper.make_node("Mul", ["inner", "huge"], ["more"]))
        model.graph.node.append(onnx.helper.make_node("Mul", ["more", "huge"], [shown]))
        model.graph.output[0].name = shown
        onnx.save(model, target)

    monkeypatch.setattr(candidates.precision, "to_fp16", huge)
    made = staged(
        quantize.quantize, finished.artifact("prune"), Quantize(candidates=("fp32", "fp16")), context, tmp_path / "q"
    )
    assert made.meta["precision"] == "fp32"
    assert any(note.startswith("fp16: not made: its output holds NaN or infinity") for note in made.meta["notes"])
