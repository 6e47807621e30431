"""Every task goes the whole road: halves of written digits, taught, cut, quantized, exported, and the same numbers everywhere.

Retrieval and generation have files of their own.
"""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mmedge import artifact, backends, runtime
from mmedge.backends import opened
from mmedge.contract import subsets
from mmedge.measure.quality import module_run
from mmedge.models import load
from mmedge.pipeline import fold
from mmedge.progress import Silent
from mmedge.report.html import write_html
from mmedge.report.record import read_report
from tests.conftest import once, parsed
from tests.data.made import write_table

pytestmark = pytest.mark.long

HALVES = {"upper": [f"p{n}" for n in range(32)], "lower": [f"p{n}" for n in range(32, 64)]}
EXPORTS = {"onnxruntime-cpu": {}, "openvino-cpu": {"precision": "int8"}, "tensorrt-rtx": {"precision": "fp16"}}
# What data says of a task; its row of the quick suite, or of the slow one.
QUICK = {
    "several heads": {
        "targets": {
            "place": {"task": "regression", "column": ["x", "y"]},
            "strokes": {"task": "frames", "column": "columns"},
        }
    }
}
SLOW = {
    "values": {"task": "regression", "target": ["x", "y"]},
    "frames": {"task": "frames", "target": "ink", "distance": "mse"},
    "lengths": {"task": "frames", "target": "columns", "log_mel": True},
    "classification": {"task": "classification", "target": "digit"},
    "ordinal": {"task": "ordinal", "target": "digit"},
    "multilabel": {"task": "multilabel", "target": "traits"},
    "regression": {"task": "regression", "target": "x"},
}
EVERY = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
STAGES = ["distill", "prune", "quantize", *(f"export-{target}" for target in EXPORTS)]


def write_digits(folder):
    """500 of scikit-learn's written digits: pixels, the number, what it is like, where the middle of the ink lies; and the
    ink as 16 frames of 4 numbers in a file, and column by column up to the last that has some, as lists."""
    digits = load_digits()
    rows = [["id", *HALVES["upper"], *HALVES["lower"], "digit", "traits", "x", "y", "ink", "columns"]]
    for number in range(500):
        ink, digit = digits.images[number], int(digits.target[number])
        traits = [name for name, has in (("even", digit % 2 == 0), ("small", digit < 5), ("round", digit in (0, 6, 8, 9))) if has]  # fmt: skip
        x, y = ((ink.sum(axis=axis) * np.arange(8)).sum() / ink.sum() for axis in (0, 1))
        missing = number % 9 == 0
        np.save(folder / f"{number}.npy", digits.data[number].reshape(16, 4))
        last = int(np.flatnonzero(ink.any(axis=0))[-1])
        frames = f"{number}.npy", json.dumps(ink.T[: last + 1].tolist())
        rows.append(
            [f"d{number}", *digits.data[number], digit, ";".join(traits) or ";", x, "" if missing else 100 * y, *frames]
        )
    write_table(folder / "m.csv", rows)


def values_of(manifest, task):
    train = {"epochs": 12, "batch_size": 32, "learning_rate": 0.01}
    encoders = {name: {"widths": [16]} for name in HALVES}
    values = {
        "schema": 1,
        "name": "digits",
        "data": {
            "manifest": str(manifest),
            "id": "id",
            "modalities": {name: {"kind": "tabular", "columns": columns} for name, columns in HALVES.items()},
            **(QUICK | SLOW)[task],
        },
        "teacher": {"model": {"encoders": {n: {"widths": [48]} for n in HALVES}}, "train": train, "export": False},
        "distill": {
            "model": {"encoders": encoders, "embedding": 16, "hidden": 16},
            "loss": {"hints": [{"weight": 0.2}]},
            "train": train,
            "controls": {"no_distillation": False, "seeds": 1},
        },
        "prune": {
            "macs": 0.8,
            "ratios": [0.5],
            "round_to": 2,
            "probe_steps": 1,
            "max_drop": 5.0,
            "max_subset_drop": 5.0,
            "faster": False,
            "train": train | {"epochs": 2},
        },
        "quantize": {"candidates": ["fp32", "int8"], "max_drop": 1.0, "max_subset_drop": 1.0, "calibration": 40},
        "export": {"targets": EXPORTS, "per_subset": True},
        "measure": {"runs": 20, "warmup": 2, "bootstrap": 100},
        "report": {"explained": 20},
        "gates": "none",
    }
    if task in QUICK:
        del values["prune"]
        values["export"] = {"targets": {"onnxruntime-cpu": {"precision": "int8"}}}
    return values


@pytest.fixture(scope="module", params=EVERY)
def ran(request, tmp_path_factory):
    """(task, folder of its run), each once for all processes."""
    manifest = once(tmp_path_factory, "tasks-digits", write_digits) / "m.csv"

    def run(folder):
        recipe = parsed(values_of(manifest, request.param))
        outcome = fold.run(recipe, folder / "out", code=folder, progress=Silent())
        assert outcome.exit_code == 0
        write_html(outcome.report, folder / "out/report.html")

    return request.param, once(tmp_path_factory, f"tasks-{request.param}", run) / "out"


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_gives_what_torch_gives_at_any_batch_and_subset(ran, stage):
    """FP32 within 1e-4 of the largest output, FP16 2e-2, INT8 half of it, as ``verification.TOLERANCES`` states."""
    task, out = ran
    if task in QUICK and not (out / stage).exists():
        pytest.skip("in the slow suite")
    made = artifact.read(out / stage)
    network = (
        made
        if (made.path / "weights.safetensors").exists()
        else artifact.read(out / ("distill" if task in QUICK else "prune"))
    )
    expect, contract = module_run(load.rebuild(network)), artifact.contract_of(made)
    backend = stage.partition("-")[2] or "onnxruntime-cpu"
    if backend == "tensorrt-rtx":
        assert any(path.stat().st_size for path in made.path.glob("*.plan"))
    able = backend if backends.can_run(backend) else "onnxruntime-cpu"
    file = next(made.path.glob("*.xml"), made.file("model.onnx")) if able == "openvino-cpu" else made.file("model.onnx")
    run = opened(file, able, host_code=True)
    relative = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.5}[made.meta.get("precision", "fp32")]
    random = np.random.default_rng(0)
    for count in (1, 2, 5):
        for chosen in subsets(tuple(HALVES)):
            inputs = {name: random.normal(size=(count, 32)).astype(np.float32) for name in HALVES}
            inputs["present"] = np.tile([name in chosen for name in HALVES], (count, 1))
            expected, given = expect(inputs), run(inputs)
            for head in contract.heads:
                wanted, found = expected[head], given[head]
                assert found.shape == wanted.shape == (count, contract.width(head))
                assert np.abs(wanted - found).max() <= relative * max(1.0, np.abs(wanted).max())


def test_each_stage_is_judged_with_intervals_whole_and_of_each_subset(ran):
    task, out = ran
    report = read_report(out / "report.json")
    stages = {stage.stage: stage for stage in report.stages}
    assert set(stages) >= {"teacher", *STAGES} or task in QUICK
    for stage in stages.values():
        low, high = stage.quality.ci95
        assert low < stage.quality.value < high and set(stage.subsets) == {*HALVES, "+".join(HALVES)}
        assert set(stage.quality.others) == set(stage.quality.others_ci95)
    assert stages["distill"].quality.value > 0.4
    page = (out / "report.html").read_text()
    assert "Target and prediction" in page or task not in ("frames", "lengths", *QUICK)
    assert task in QUICK or all(
        name.replace("_", " ").replace(".", " · ") in page for name in stages["distill"].quality.others
    )
    if task not in QUICK:
        assert stages["prune"].params < stages["distill"].params


def test_an_app_gets_an_array_as_long_as_it_is_said_to_be(ran, mmedge, tmp_path):
    task, out = ran
    if task not in ("frames", "lengths", "several heads"):
        pytest.skip("of arrays")
    engine, digits = runtime.load(out / "bundle"), load_digits()
    halves = digits.data[600:660].reshape(-1, 2, 32)
    found = engine.predict(upper=list(halves[:, 0]), lower=list(halves[:, 1]))
    arrays = [(each.heads.get("strokes") or each).array for each in found]
    if task == "frames":
        assert {array.shape for array in arrays} == {(16, 4)}
        assert np.corrcoef(np.ravel(arrays), digits.data[600:660].ravel())[0, 1] > 0.8
    else:
        lengths = [len(array) for array in arrays]
        true = [int(np.flatnonzero(ink.any(axis=0))[-1]) + 1 for ink in digits.images[600:660]]
        assert {array.shape[1] for array in arrays} == {8} and np.abs(np.subtract(lengths, true)).mean() < 1
    cells = [f"--upper={','.join(map(str, halves[0, 0]))}", f"--lower={','.join(map(str, halves[0, 1]))}"]
    said = mmedge("predict", out / "bundle", *cells, "--out", tmp_path / "a.npy")
    assert said.code == 0, said.err
    file = tmp_path / ("a.strokes.npy" if task == "several heads" else "a.npy")
    np.testing.assert_allclose(np.load(file), arrays[0], rtol=1e-4, atol=1e-3)


def test_a_table_is_predicted_and_judged_with_arrays_in_files_and_values_in_columns(ran, mmedge, tmp_path):
    task, out = ran
    if task not in QUICK:
        pytest.skip("of several heads")
    table = out.parents[1] / "tasks-digits/m.csv"
    few = tmp_path / "few.csv"
    few.write_text("".join(table.read_text().splitlines(keepends=True)[:41]))
    said = mmedge("evaluate", out / "bundle", few, "--truth", "strokes=columns", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert set(found["heads"]) == {"place", "strokes"} and found["quality"]["metric"] == "mean"
    assert found["heads"]["strokes"]["n"] == 40 and found["heads"]["strokes"]["value"] > 0.2
    said = mmedge("predict", out / "bundle", few, "--out", tmp_path / "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert (
        said.code == 0 and len(rows) == 40 and {"place.x", "place.y", "strokes.array", "strokes.length"} <= set(rows[0])
    )
    for row in rows[:3]:
        assert np.load(tmp_path / row["strokes.array"]).shape == (int(row["strokes.length"]), 8)
    said = mmedge("explain", out / "distill", "--samples", few, "--json")
    assert said.code == 0 and "evidence is of the first value, x" in said.out + said.err


def test_an_app_is_told_each_value_by_its_name(ran, mmedge):
    task, out = ran
    if task != "values":
        pytest.skip("of several numbers")
    engine, digits = runtime.load(out / "bundle"), load_digits()
    halves = digits.data[600:680].reshape(-1, 2, 32)
    found = engine.predict(upper=list(halves[:, 0]), lower=list(halves[:, 1]))
    assert set(found[0].values) == {"x", "y"} and found[0].record() == {"values": found[0].values}
    middle = [100 * (ink.sum(axis=1) * np.arange(8)).sum() / ink.sum() for ink in digits.images[600:680]]
    assert np.corrcoef([each.values["y"] for each in found], middle)[0, 1] > 0.8
    cells = ",".join(map(str, halves[0, 0]))
    said = mmedge("predict", out / "bundle", "--upper", cells)
    assert [line.split("\t")[0] for line in said.out.splitlines()] == ["x", "y"]
