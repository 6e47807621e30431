"""``mmedge quantize model.onnx --data``: no recipe; half of the data calibrates and the other half judges."""

import json
import shutil

import numpy as np
import onnx
import pytest
from jsonschema import Draft202012Validator

from mmedge import artifact
from mmedge.backends import onnxruntime_cpu
from mmedge.errors import MismatchError, UsageError
from mmedge.pipeline import standalone
from mmedge.pipeline.standalone import FileOptions, quantize_file
from mmedge.profiling.timing import summary
from mmedge.progress import Silent
from mmedge.recipe import Quantize
from mmedge.report.quantized_file import FileReport
from mmedge.report.schema import LayersRecord
from mmedge.stages.quantize import candidates


@pytest.fixture(scope="module")
def given(finished, dataset, tmp_path_factory):
    """A user's folder: a graph of two inputs and a mask, and real samples with labels as one .npz."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(finished.artifact("teacher").file("model.onnx"), folder / "model.onnx")
    train = dataset.train
    inputs = {name: np.asarray(x[:80]) for name, x in train.inputs.items()} | {"present": np.ones((80, 2), bool)}
    np.savez(folder / "data.npz", **inputs, labels=train.targets["logits"][:80])
    np.savez(folder / "inputs.npz", **inputs)
    return folder


def test_without_data_to_calibrate_on_weights_alone_and_ranges_found_while_it_runs_are_offered(given, tmp_path, mmedge):
    said = mmedge("quantize", given / "model.onnx", "--out", tmp_path / "q")
    assert said.code == 2 and "int8-weights, int4-weights and int8-dynamic calibrate nothing" in said.err
    few = {name: value[:4] for name, value in np.load(given / "inputs.npz").items()}
    np.savez(tmp_path / "few.npz", **few)
    wanted = ("fp32", "int8-weights", "int4-weights", "int8-dynamic")
    asked = ("--data", tmp_path / "few.npz", "--candidates", ",".join(wanted), "--max-drop", 1)
    made = mmedge("quantize", given / "model.onnx", *asked, "--out", tmp_path / "q", "--json")
    report = json.loads(made.out)
    assert made.code == 0 and {row["precision"] for row in report["candidates"]} == set(wanted)
    assert report["data"]["calls"] == 4 and not any("calibrated on" in note for note in report.get("notes", []))


@pytest.mark.long
def test_every_candidate_is_judged_with_its_interval_on_calls_that_did_not_calibrate(given, tmp_path, mmedge):
    said = mmedge(
        "quantize",
        given / "model.onnx",
        "--data",
        given / "data.npz",
        "--max-drop",
        1,
        "--candidates",
        "fp32,fp16,bf16,int8",
        "--out",
        tmp_path / "q",
        "--json",
    )
    assert said.code == 0
    report = json.loads(said.out)
    assert report["data"] == {"source": str(given / "data.npz"), "calls": 80, "calibration": 40, "judged": 40}
    assert report["judged_by"].startswith("accuracy") and report["verdict"] == "pass"
    rows = {row["precision"]: row for row in report["candidates"]}
    assert {"fp32", "fp16", "int8"} <= set(rows)
    run, unmade = onnxruntime_cpu.session(given / "model.onnx"), rows["bf16"]
    assert unmade.keys() == {"precision", "kept", "why"} and unmade["why"].startswith("not made: ONNX Runtime has no")
    for row in rows.values():
        if row is unmade:
            continue
        assert row["n"] == 40 and row["ci95"][0] <= row["quality_validation"] <= row["ci95"][1]
        assert row["drop_ci95"][0] <= row["drop"] <= row["drop_ci95"][1] and row["p50_ms"] > 0
        assert set(onnxruntime_cpu.session(tmp_path / "q" / f"{row['precision']}.onnx").inputs) == set(run.inputs)
    assert rows["int8"]["int8_kernels"] and rows["fp32"]["drop"] == 0
    written = artifact.read(tmp_path / "q")
    assert written.file("model.onnx").read_bytes() == written.file(f"{report['precision']}.onnx").read_bytes()
    assert json.loads(written.file("report.json").read_text()) == report
    assert "accuracy against the labels" in said.err
    page = (tmp_path / "q" / "report.html").read_text()
    assert all(f"<td>{row['precision']}</td>" in page and row["why"] in page for row in rows.values())
    assert ("<svg" in page) == ("sensitivity" in report) and "model.onnx, quantized" in page
    (tmp_path / "q" / "report.html").unlink()
    assert mmedge("report", tmp_path / "q").code == 0 and (tmp_path / "q" / "report.html").is_file()


def test_without_labels_it_is_agreement_with_fp32_that_is_judged_and_said(given, tmp_path, mmedge):
    arguments = ("--data", given / "inputs.npz", "--candidates", "fp32,fp16", "--out", tmp_path / "q", "--json")
    report = json.loads(mmedge("quantize", given / "model.onnx", *arguments).out)
    assert report["judged_by"].startswith("share of calls whose largest output is the same as FP32's")
    assert FileReport.model_validate(report).record() == report
    schema = json.loads(mmedge("report", "--schema", "file").out)
    assert not list(Draft202012Validator(schema).iter_errors(report))
    assert report["candidates"][0]["quality_validation"] == 1
    assert not any("calibrated on" in note for note in report["notes"])  # FP16 needs none
    report = json.loads(mmedge("quantize", given / "model.onnx", *arguments, "--judge", "difference").out)
    assert 0.99 < report["candidates"][1]["quality_validation"] < 1 and report["output"] == "all"


@pytest.mark.long
def test_a_required_precision_outside_the_budget_is_exit_3_and_a_slow_result_exit_4(given, tmp_path, mmedge):
    arguments = ("--data", given / "inputs.npz", "--judge", "difference", "--candidates", "fp32,int8", "--json")
    said = mmedge(
        "quantize", given / "model.onnx", *arguments, "--out", tmp_path / "a", "--require", "int8", "--max-drop", 0
    )
    report = json.loads(said.out)
    assert said.code == report["exit"] == 3 and report["precision"].startswith("int8") and report["verdict"] == "fail"
    slow = ("--out", tmp_path / "b", "--max-latency-ratio", 0.001, "--max-drop", 1)
    assert mmedge("quantize", given / "model.onnx", *arguments, *slow).code == 4


def test_int8_that_would_run_in_float_is_exit_5_where_it_was_asked_for_and_a_note_elsewhere(tmp_path, mmedge):
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Tanh", ["x"], ["y"])], "g", [value("x", 1, ["n", 4])], [value("y", 1, ["n", 4])]
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "m.onnx",
    )
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32))
    arguments = ("quantize", tmp_path / "m.onnx", "--data", tmp_path / "x.npy", "--out", tmp_path / "q")
    assert mmedge(*arguments, "--candidates", "fp32,int8").code == 5
    said = mmedge(*arguments)
    assert said.code == 0 and "int8: dropped: ONNX Runtime runs no 8-bit kernel" in " ".join(said.err.split())


def test_a_fast_graph_with_a_layer_that_runs_in_float_is_not_taken_but_an_error_where_it_was_asked_for(
    given, tmp_path, monkeypatch
):
    """Which layers run in float and how fast is up to the machine, so that both are said here."""
    real = candidates.proved
    floats = LayersRecord(asked=2, int8=1, float_layers={"fusion.0": "no reason is known"}, unexplained=["fusion.0"])
    monkeypatch.setattr(candidates, "proved", lambda graph: (real(graph)[0], floats))

    def timer(feed, settings, progress):
        nanoseconds = {"fp32": 2_000_000, "int8": 1_000_000}
        return lambda graphs: {name: summary(np.full(20, nanoseconds[name])) for name in graphs}

    monkeypatch.setattr(standalone, "_timer", timer)

    def quantized(**more):
        settings = FileOptions(Quantize(candidates=("fp32", "int8"), max_drop=1.0, calibration=8), **more)
        return quantize_file(given / "model.onnx", str(given / "inputs.npz"), tmp_path / "q", settings, Silent())

    report = quantized()
    assert report.precision == "fp32" and report.exit == 0
    assert "int8: dropped: quantized layers run in float on ONNX Runtime: fusion.0" in report.notes
    with pytest.raises(MismatchError, match=r"quantize.ignore: \[fusion.0\]"):
        quantized(named=True)


def test_an_external_data_model_is_taken_as_one_file_and_a_lost_one_is_told(given, tmp_path, mmedge):
    model = onnx.load(given / "model.onnx")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=64)
    arguments = ("quantize", tmp_path / "m.onnx", "--data", given / "inputs.npz", "--candidates", "fp32,fp16")
    assert mmedge(*arguments, "--out", tmp_path / "q").code == 0
    assert onnxruntime_cpu.session(tmp_path / "q" / "fp32.onnx").inputs
    assert not (tmp_path / "q" / "whole.onnx").exists()
    (tmp_path / "m.data").unlink()
    said = mmedge(*arguments, "--out", tmp_path / "q2")
    assert said.code == 1 and "keeps its weights in another file" in said.err


def test_of_calls_of_many_lengths_the_one_of_median_size_is_timed_and_told(tmp_path, mmedge):
    value, folder = onnx.helper.make_tensor_value_info, tmp_path / "calls"
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Tanh", ["a/b"], ["y"])], "g", [value("a/b", 1, [1, "t"])], [value("y", 1, [1, "t"])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    folder.mkdir()
    for length in range(1, 9):
        np.savez(folder / f"{length}.npz", **{"a/b": np.ones((1, 40 if length == 8 else 4 + length % 2), np.float32)})
    arguments = ("--candidates", "fp32,fp16", "--seed", 1, "--out", tmp_path / "q", "--json")
    report = json.loads(mmedge("quantize", tmp_path / "m.onnx", "--data", folder, *arguments).out)
    (note,) = (note for note in report["notes"] if "median size" in note)
    assert note.endswith(("a/b [1, 4]", "a/b [1, 5]"))


def test_numbers_of_the_data_that_are_none_are_told_with_their_input_and_output(tmp_path):
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Tanh", ["x"], ["y"])], "g", [value("x", 1, ["n", 4])], [value("y", 1, ["n", 4])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    x[::2] = np.nan
    np.save(tmp_path / "x.npy", x)
    settings = FileOptions(Quantize(candidates=("fp32",)), judge="difference")
    notes = quantize_file(tmp_path / "m.onnx", str(tmp_path / "x.npy"), tmp_path / "q", settings, Silent()).notes
    told = [note for note in notes if "holds NaN or infinity" in note]
    assert len(told) == 2 and "the input 'x'" in told[0] and "the output 'y'" in told[1]


def test_labels_that_fp32_itself_does_not_reach_are_told(tmp_path):
    """Numbered otherwise than the columns: no candidate could lose any of it."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [value("x", 1, ["n", 3])], [value("y", 1, ["n", 3])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
    told = {}
    for name, labels in (("right", x.argmin(1)), ("turned", (x.argmin(1) + 1) % 3)):
        np.savez(tmp_path / f"{name}.npz", x=x, labels=labels)
        settings, out = FileOptions(Quantize(candidates=("fp32",))), tmp_path / name
        notes = quantize_file(tmp_path / "m.onnx", str(tmp_path / f"{name}.npz"), out, settings, Silent()).notes
        told[name] = [note for note in notes if "FP32 itself is right in 0% of the calls" in note]
    assert not told["right"] and len(told["turned"]) == 1


def test_a_folder_that_holds_something_else_is_not_replaced(given, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        quantize_file(given / "model.onnx", str(given / "inputs.npz"), tmp_path, FileOptions(Quantize()), Silent())
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "quantized with --data"),
        (["--data", "{inputs}", "--set", "quantize.max_drop=1"], "belong to a recipe"),
        (["--data", "{inputs}", "--candidates", "fp32,int4"], "--candidates"),
        (["--data", "{inputs}", "--output", "logit"], "did you mean 'logits'"),
        (["--data", "{inputs}", "--judge", "accuracy"], "has no labels"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(arguments, told, given, tmp_path, mmedge):
    said = mmedge(
        "quantize",
        given / "model.onnx",
        *(a.format(inputs=given / "inputs.npz") for a in arguments),
        "--out",
        tmp_path / "q",
    )
    assert said.code == 2 and told in said.err and not (tmp_path / "q").exists()


def test_an_onnx_file_is_one_in_capitals_too(mmedge, tmp_path):
    (tmp_path / "MODEL.ONNX").write_bytes(b"x")
    said = mmedge("quantize", tmp_path / "MODEL.ONNX")
    assert said.code == 2 and "an ONNX file is quantized with --data" in said.err
