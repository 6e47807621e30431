"""What follows a run gets its recipe, curves, figures and files; what fails ends no run, and what lacks is told before it."""

from __future__ import annotations

import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmedge import recipe
from mmedge.errors import MissingDependency
from mmedge.pipeline import check as checking
from mmedge.pipeline import fold as pipeline
from mmedge.progress import Silent
from mmedge.tracking import TRACKERS, following
from tests.conftest import parsed


class Kept(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def places(tmp_path, monkeypatch) -> Path:
    """Nothing leaves the test's folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb"))
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    return tmp_path


def records(log: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, which wandb writes: blocks of 32 KiB with parts that have 7 bytes in front."""
    at, whole = 7, b""
    while at + 7 <= len(log):
        left = 32768 - at % 32768
        size, kind = struct.unpack("<HB", log[at + 4 : at + 7])
        if left < 7 or kind == 0:
            at += left
            continue
        whole += log[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # the whole of it, or its last part
            yield whole
            whole = b""


def told_to_wandb(folder: Path) -> tuple[dict[str, object], list[dict[str, str]], list[str]]:
    """(figures, rows of curves, artifacts) in the file that is synchronised later."""
    from wandb.proto import wandb_internal_pb2

    (file,) = (file for file in folder.rglob("*.wandb") if "latest-run" not in str(file))
    figures, rows, artifacts = dict[str, object](), [], []
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        figures |= {item.key or item.nested_key[0]: item.value_json for item in record.summary.update}
        if record.history.item:
            rows.append({item.key or item.nested_key[0]: item.value_json for item in record.history.item})
        if record.artifact.name:
            artifacts.append(record.artifact.name)
    return figures, rows, artifacts


@pytest.mark.long
def test_a_run_is_told_to_everything_that_follows_it(finished, values, places):
    from mlflow import MlflowClient

    out, progress = finished.whole_copy(places / "out"), Kept()
    outcome = pipeline.run(parsed(values | {"track": list(TRACKERS)}), out, code=places, progress=progress)
    stages = {stage.stage: stage for stage in outcome.report.stages}
    assert {stage.status for stage in stages.values()} == {"cached"}, "to be followed changes nothing of a run"
    assert not [line for line in progress.lines if "tracking" in line]

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("mmedge").experiment_id])
    assert run.info.run_name == "tiny" and run.info.status == "FINISHED"
    assert run.data.params["teacher.train.epochs"] == "2" and run.data.params["data.manifest"] == "manifest.csv"
    assert run.data.metrics["distill/accuracy on test"] == stages["distill"].quality.value
    assert run.data.metrics["prune/params"] == stages["prune"].params
    assert run.data.metrics["quantize/subsets/image"] == stages["quantize"].subsets["image"]
    curve = [m.value for m in client.get_metric_history(run.info.run_id, "teacher/teacher/loss")]
    assert curve == stages["teacher"].learning.loss
    assert {"report.json", "report.html", "bundle"} <= {file.path for file in client.list_artifacts(run.info.run_id)}
    assert "bundle/manifest.json" in {file.path for file in client.list_artifacts(run.info.run_id, "bundle")}

    figures, rows, artifacts = told_to_wandb(places / "wandb")
    assert float(figures["distill/accuracy on test"]) == stages["distill"].quality.value
    assert [float(row["teacher/teacher/loss"]) for row in rows if "teacher/teacher/loss" in row] == curve
    assert {"tiny-bundle", "tiny-report.json", "tiny-report.html"} <= set(artifacts)
    assert list((out / "tensorboard" / "teacher").rglob("events.*"))


def test_what_fails_is_left_out_with_one_warning_and_the_run_goes_on(places):
    said: list[str] = []
    with following(("mlflow", "tensorboard"), "run", places, said.append) as found:
        shutil.rmtree(places / "mlruns")
        (places / "mlruns").write_text("a disk that is gone")
        for epoch in (1, 2, 3):
            found.log("teacher/teacher")({"epoch": epoch, "loss": 1.0})
        assert list(found.ids) == ["tensorboard"]
    assert len(said) == 1 and said[0].startswith("tracking: mlflow is left out from here on: ")


def test_a_server_that_is_not_there_is_one_warning(places, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said: list[str] = []
    with following(("mlflow",), "run", places, said.append) as found:
        found.parameters({"seed": "0"})
        assert not found
    assert len(said) == 1 and "mlflow is left out" in said[0] and "127.0.0.1" in said[0]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_missing_is_told_before_anything_is_trained(name, values, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, TRACKERS[name].package, None)
    found = parsed(values | {"track": [name]})
    with pytest.raises(MissingDependency, match=f"asks for {name}, which is not installed") as caught:
        pipeline.run(found, tmp_path / "out", code=tmp_path, progress=Silent())
    assert "pip install" in str(caught.value) and not (tmp_path / "out").exists()
    card = checking.check(found, tmp_path / "c", code=tmp_path, progress=Silent(), media=False)
    assert [fault.what for fault in card.faults if fault.kind == "dependency"] == [caught.value.what]


def test_the_older_key_of_a_schedule_means_the_same(values):
    assert parsed(values).trackers == ()
    values["teacher"]["train"]["log"] = "tensorboard"
    assert parsed(values | {"track": ["wandb", "tensorboard"]}).trackers == ("wandb", "tensorboard")
    assert parsed(values).trackers == ("tensorboard",)
    from typing import get_args

    assert get_args(recipe.whole.Tracker) == tuple(TRACKERS)
