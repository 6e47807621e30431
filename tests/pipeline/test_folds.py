"""``mmedge run --folds all``: every fold in a folder of its own, then means with intervals."""

import json

import pytest

from mmedge.data.manifest.table import read_table
from mmedge.machine import machine
from mmedge.pipeline.folds import summary
from mmedge.report.schema import Report
from tests.conftest import write_recipe


def report(quality, ratio=None, verdict="pass"):
    of = {"ci95": (0.0, 1.0), "n": 8, "groups": 8, "split": "test", "others": {}}
    times = {"p50_ms": 1, "p90_ms": 1, "p95_ms": 1, "p99_ms": 1, "p99_9_ms": 1, "mean_ms": 1, "runs": 9, "cv": 0}
    stage = {
        "stage": "teacher",
        "status": "ran",
        "quality": {"metric": "accuracy", "value": quality, **of},
        "params": 10,
    }
    if ratio:
        on = {"target": "onnxruntime-cpu", "batch": 1, "threads": 1}
        stage["latency"] = {**times, **on, "ratio_to_teacher": ratio}
    data = {"sha256": "", "source": "x.csv", "train": 8, "validation": 8, "test": 8}
    about = {"schema": 1, "mmedge": "0", "recipe": {}, "seed": 0, "machine": machine(), "data": data, "controls": []}
    return Report.model_validate({**about, "stages": [stage], "verdict": verdict})


def test_means_and_intervals_are_students_t_over_the_folds():
    told = summary("r", [report(0.5, 0.3), report(0.7, verdict="fail")]).record()
    (teacher,) = told["stages"]
    assert teacher["quality"]["values"] == [0.5, 0.7] and teacher["quality"]["mean"] == pytest.approx(0.6)
    assert teacher["quality"]["ci95"] == pytest.approx([0.6 - 12.7062 * 0.1, 0.6 + 12.7062 * 0.1], abs=1e-4)
    assert teacher["latency_ratio_to_teacher"] == {"mean": 0.3, "values": [0.3, None]}  # of one fold: no interval
    assert told["verdict"] == "fail" and [fold["verdict"] for fold in told["folds"]] == ["pass", "fail"]


@pytest.mark.long
def test_every_fold_is_run_once_and_the_second_call_recomputes_nothing(media, values, tmp_path, mmedge):
    header, *rows = (media / "manifest.csv").read_text().splitlines()
    (tmp_path / "manifest.csv").write_text("\n".join([header, *rows[::4]]))
    for folder in ("image", "audio"):
        (tmp_path / folder).symlink_to(media / folder)
    values["data"]["manifest"] = str(tmp_path / "manifest.csv")
    values["data"].pop("split")
    values["data"]["fold"] = {"k": 2, "index": 0}
    values |= {"distill": None, "prune": None, "quantize": None}
    values["teacher"]["train"] |= {"epochs": 1, "augment": {}}
    values["measure"] = {"runs": 20, "warmup": 1, "bootstrap": 100}
    values["export"] = {"targets": {"onnxruntime-cpu": {}}}
    arguments = (
        "run",
        write_recipe(values, tmp_path / "r.yaml"),
        "--out",
        tmp_path / "out",
        "--folds",
        "all",
        "--json",
    )
    said = mmedge(*arguments)
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert told == json.loads((tmp_path / "out" / "folds.json").read_text())
    reports = [json.loads((tmp_path / "out" / fold["report"]).read_text()) for fold in told["folds"]]
    for stage in told["stages"]:
        of_folds = [next(s for s in one["stages"] if s["stage"] == stage["stage"]) for one in reports]
        assert stage["quality"]["values"] == [one["quality"]["value"] for one in of_folds]
    tested = [set(read_table(tmp_path / "out" / f"fold-{n}" / "data" / "test.csv")["id"]) for n in range(2)]
    assert len(tested[0] | tested[1]) == 88 and not tested[0] & tested[1]
    assert (tmp_path / "out" / "fold-1" / "report.html").is_file() and "[" in said.err
    again = mmedge(*arguments)
    assert again.code == 0 and "training the teacher" not in again.err


def test_folds_without_their_number_or_from_an_artifact_are_told(values, finished, tmp_path, mmedge):
    recipe = write_recipe(values, tmp_path / "r.yaml")
    said = mmedge("run", recipe, "--out", tmp_path / "out", "--folds", "all")
    assert said.code == 2 and "fold: {k: 5, index: 0}" in said.err
    assert mmedge("run", recipe, "--folds", "all", "--from", finished.out / "teacher").code == 2
    assert mmedge("run", finished.out / "teacher", "--folds", "all").code == 2
