"""The pipeline: a finished run, resumed, interrupted, started from an artifact, and judged."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmedge import artifact, recipe
from mmedge.backends import missing
from mmedge.errors import MissingDependency, MmedgeError, UsageError
from mmedge.pipeline import fold as pipeline
from mmedge.progress import Silent
from tests.conftest import child_environment, parsed, tiny, write_recipe


def changed(values, **sections):
    values = copy.deepcopy(values)
    for name, section in sections.items():
        if section is None:
            values.pop(name, None)
        else:
            values[name] = section
    return parsed(values)


def state(folder: Path) -> dict[str, int]:
    """Every file below a folder with the time it was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_run_has_an_artifact_of_every_stage_each_the_child_of_the_one_before(finished):
    assert finished.exit_code == 0
    assert [stage["stage"] for stage in finished.report["stages"]] == [
        "teacher",
        "distill",
        "prune",
        "quantize",
        "export-onnxruntime-cpu",
        "export-tensorrt-rtx",
    ]
    chain = [finished.artifact(name) for name in ("teacher", "distill", "prune", "quantize")]
    assert [made.parent for made in chain] == [None, *(made.sha256 for made in chain[:-1])]
    assert finished.artifact("export-tensorrt-rtx").parent == chain[-1].sha256
    for stage in finished.report["stages"]:
        assert (finished.out / stage["artifact"] / "model.onnx").is_file()


def test_a_run_leaves_no_half_written_folder_behind(finished):
    hidden = [path.name for path in finished.out.iterdir() if path.name.startswith(".")]
    assert hidden == [".work"]


def test_a_second_run_computes_nothing_again(finished, tmp_path):
    out = finished.whole_copy(tmp_path / "out")
    stages = [out / stage["artifact"] for stage in finished.report["stages"]]
    watched = [*stages, out / "bundle", out / ".work", out / "data"]
    before = {str(folder): state(folder) for folder in watched}
    again = pipeline.run(recipe.load(finished.recipe_file), out, code=finished.out.parent, progress=Silent())
    assert {stage["status"] for stage in again.report.record()["stages"]} == {"cached"}
    assert {str(folder): state(folder) for folder in watched} == before
    for first, second in zip(finished.report["stages"], again.report.record()["stages"]):
        assert {k: v for k, v in first.items() if k not in ("status", "seconds")} == {
            k: v for k, v in second.items() if k not in ("status", "seconds")
        }


def test_a_changed_section_reruns_its_stage_and_those_after_it_only(finished, values, tmp_path):
    finished.whole_copy(tmp_path / "out")
    other = changed(
        values,
        quantize={"candidates": ["fp32", "fp16"], "max_drop": 1.0, "max_subset_drop": 1.0},
        export={"targets": {"onnxruntime-cpu": {}}},
    )
    outcome = pipeline.run(other, tmp_path / "out", code=tmp_path, progress=Silent())
    assert {stage["stage"]: stage["status"] for stage in outcome.report.record()["stages"]} == {
        "teacher": "cached",
        "distill": "cached",
        "prune": "cached",
        "quantize": "ran",
        "export-onnxruntime-cpu": "ran",
    }
    # The verbs of single stages, on the same folder: each takes what is there, and the report stays whole.
    for verb in ("teacher", "distill", "prune", "quantize", "export"):
        alone = pipeline.run(other, tmp_path / "out", code=tmp_path, progress=Silent(), only=verb)
        assert [stage["stage"] for stage in alone.report.record()["stages"]] == other.stages
        assert {stage["status"] for stage in alone.report.record()["stages"]} == {"cached"}


def test_a_run_can_start_from_an_artifact_of_another_folder(finished, values, tmp_path):
    other = changed(values, export={"targets": {"onnxruntime-cpu": {}}})
    out = finished.copied(tmp_path / "out")
    outcome = pipeline.run(other, out, code=tmp_path, progress=Silent(), start=finished.out / "quantize")
    by_stage = {stage["stage"]: stage for stage in outcome.report.record()["stages"]}
    assert list(by_stage) == ["teacher", "quantize", "export-onnxruntime-cpu"]
    assert by_stage["export-onnxruntime-cpu"]["status"] == "ran"
    assert by_stage["export-onnxruntime-cpu"]["parent"] == finished.artifact("quantize").sha256
    assert (tmp_path / "out" / "bundle" / "model.onnx").is_file()
    assert not (tmp_path / "out" / "teacher").exists()
    # What the run started from is copied: its folder is whole when that one has gone.
    assert artifact.read(out / "quantize").sha256 == finished.artifact("quantize").sha256
    # Its parent, the pruned model, is not in this run: there is nothing to give a ratio to.
    assert "ratio_to_parent" not in by_stage["quantize"]["latency"]
    assert "ratio_to_teacher" in by_stage["quantize"]["latency"]


def test_what_is_given_is_not_tried_first(finished, values):
    plan = pipeline.planned(parsed(values), finished.out, finished.artifact("teacher"), None)
    assert [step.name for step in plan.chain if plan.runs(step) and not plan.makes(step)] == ["teacher"]


def test_an_artifact_of_another_recipe_is_refused_with_exit_2(finished, values, tmp_path):
    values["data"]["modalities"]["audio"]["mels"] = 12
    with pytest.raises(UsageError, match="another recipe.*'audio'") as raised:
        pipeline.run(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent(), start=finished.out / "distill")
    assert raised.value.exit_code == 2 and "distill" in str(raised.value)


@pytest.mark.parametrize("stage", ["bundle", "export-onnxruntime-cpu"])
def test_a_run_cannot_start_from_an_end_product(finished, values, tmp_path, stage):
    with pytest.raises(UsageError):
        pipeline.run(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent(), start=finished.out / stage)


@pytest.mark.long
def test_a_pruned_model_is_pruned_again_from_its_artifact_beside_it(finished, values, tmp_path):
    values["prune"] |= {"allocation": "uniform", "macs": 0.8}
    given = finished.out / "prune"
    out = finished.copied(tmp_path / "out")
    outcome = pipeline.run(parsed(values), out, code=tmp_path, progress=Silent(), start=given, only="prune")
    _, parent, again = outcome.report.record()["stages"]
    assert (parent["stage"], parent["sha256"]) == ("parent", finished.artifact("prune").sha256)
    assert again["stage"] == "prune" and again["parent"] == parent["sha256"] and again["status"] == "ran"
    assert again["macs"] <= 0.8 * parent["macs"] and "ratio_to_parent" in again["latency"]
    with pytest.raises(UsageError, match="would replace the artifact"):
        pipeline.run(parsed(values), finished.out, code=tmp_path, progress=Silent(), start=given, only="prune")


def test_a_verb_does_not_start_from_a_later_stage(finished, values, tmp_path):
    with pytest.raises(UsageError, match="needs an earlier one"):
        pipeline.run(
            parsed(values),
            tmp_path / "out",
            code=tmp_path,
            progress=Silent(),
            start=finished.out / "prune",
            only="distill",
        )


def test_a_verb_without_its_section_and_one_without_its_parent_say_what_to_do(finished, values, tmp_path):
    with pytest.raises(UsageError, match="no section 'prune'"):
        pipeline.run(changed(values, prune=None), tmp_path, code=tmp_path, progress=Silent(), only="prune")
    with pytest.raises(UsageError, match="mmedge train first"):
        pipeline.run(parsed(values), finished.copied(tmp_path), code=tmp_path, progress=Silent(), only="prune")


def test_a_damaged_artifact_is_not_gone_on_from(finished, values, tmp_path):
    finished.copied(tmp_path / "out", "teacher")
    with (tmp_path / "out" / "teacher" / "weights.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x55")
    with pytest.raises(MmedgeError, match=r"weights\.safetensors"):
        pipeline.run(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent(), only="distill")


def test_a_damaged_stage_of_the_own_folder_is_told_of_and_made_again(finished, values, tmp_path):
    stages = ("teacher", "distill", "prune", "quantize", "export-onnxruntime-cpu", "export-tensorrt-rtx", "bundle")
    out, said = finished.copied(tmp_path / "out", *stages), []
    for name in ("export-onnxruntime-cpu", "bundle"):
        (out / name / "model.onnx").write_bytes(b"spoilt")

    class Progress(Silent):
        def say(self, line):
            said.append(line)

    outcome = pipeline.run(parsed(values), out, code=tmp_path, progress=Progress(), only="export")
    status = {stage["stage"]: stage["status"] for stage in outcome.report.record()["stages"]}
    assert status["export-onnxruntime-cpu"] == "ran" and status["export-tensorrt-rtx"] == "cached"
    assert sum("made again" in line for line in said) == 2
    for name in ("export-onnxruntime-cpu", "bundle"):
        assert artifact.read(out / name).file("model.onnx").stat().st_size > 1000


def without_tensorrt(monkeypatch):
    monkeypatch.setattr(missing, "find_spec", lambda name: None if name.startswith("tensorrt") else find_spec(name))


def test_a_missing_target_package_is_told_before_anything_is_trained_with_exit_6(values, tmp_path, monkeypatch):
    without_tensorrt(monkeypatch)
    with pytest.raises(MissingDependency) as raised:
        pipeline.run(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())
    assert raised.value.exit_code == 6 and not (tmp_path / "out").exists()


def test_a_missing_package_of_an_optional_target_is_a_note(finished, values, tmp_path, monkeypatch):
    without_tensorrt(monkeypatch)
    targets = {"onnxruntime-cpu": {}, "tensorrt": {"required": False}}
    outcome = pipeline.run(
        changed(values, export={"targets": targets}),
        finished.copied(tmp_path / "out"),
        code=tmp_path,
        progress=Silent(),
        start=finished.out / "quantize",
    )
    skipped = outcome.report.record()["stages"][-1]
    assert skipped["stage"] == "export-tensorrt" and skipped["status"] == "skipped"
    assert "pip install" in skipped["notes"][0] and outcome.exit_code == 0


def test_a_verb_that_builds_no_target_does_not_ask_for_its_package(finished, values, tmp_path, monkeypatch):
    without_tensorrt(monkeypatch)
    finished.whole_copy(tmp_path / "out")
    outcome = pipeline.run(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent(), only="quantize")
    assert outcome.exit_code == 0


@pytest.mark.parametrize(
    ("gates", "code"),
    [
        ({"export-onnxruntime-cpu": {"quality": 1.0}}, 3),
        ({"export-onnxruntime-cpu": {"params": 1}}, 4),
        ({"export-onnxruntime-cpu": {"params": 1}, "quantize": {"subset.image": 1.01}}, 3),
        ({"quantize": {"params": 1e9, "quality": 0.0}}, 0),
        ({"distill": {"gain": 1.01}}, 3),
        ({"distill": {"gain": -1.0, "gain_ci95_low": -1.01}}, 0),
    ],
)
def test_gates_decide_the_exit_code_and_stand_in_the_report(finished, values, tmp_path, gates, code):
    """Measured figures are remembered, so that only the judging is done again."""
    finished.whole_copy(tmp_path / "out")
    engines = {f"export-{name}": {"above_majority": -1.0} for name in values["export"]["targets"]}
    gates = {stage: {**engines.get(stage, {}), **gates.get(stage, {})} for stage in {**engines, **gates}}
    outcome = pipeline.run(changed(values, gates=gates), tmp_path / "out", code=tmp_path, progress=Silent())
    assert outcome.exit_code == code
    assert outcome.report.record()["verdict"] == ("fail" if code else "pass")
    for stage in outcome.report.record()["stages"]:
        assert {gate["name"]: gate["limit"] for gate in stage["gates"]} == gates.get(stage["stage"], {})
    assert all(gate["passed"] for stage in outcome.report.record()["stages"] for gate in stage["gates"]) == (code == 0)


@pytest.mark.long
def test_a_gain_gate_without_a_control_does_not_pass(finished, values, tmp_path):
    values["distill"]["controls"]["no_distillation"] = False
    values["gates"] = {"distill": {"gain": 0.0}}
    outcome = pipeline.run(
        changed(values, prune=None, quantize=None),
        finished.copied(tmp_path / "out"),
        code=tmp_path,
        progress=Silent(),
        start=finished.out / "teacher",
        only="distill",
    )
    assert outcome.exit_code == 3
    (judged,) = outcome.report.record()["stages"][-1]["gates"]
    assert (judged["name"], judged["passed"]) == ("gain", False) and "was not measured" in judged["sentence"]


def start_command(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "mmedge", *map(str, arguments)],
        cwd=cwd,
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


@pytest.mark.long
def test_ctrl_c_ends_with_130_and_the_same_command_ends_like_an_uninterrupted_one(finished, media, mmedge, tmp_path):
    values = tiny(media / "manifest.csv")
    values["teacher"]["train"]["epochs"] = 10
    file = write_recipe(values, tmp_path / "tiny.yaml")
    finished.copied(tmp_path / "a"), finished.copied(tmp_path / "b")
    uninterrupted = pipeline.run(recipe.load(file), tmp_path / "a", code=tmp_path, progress=Silent(), only="teacher")

    process = start_command("train", file, "--out", tmp_path / "b", cwd=tmp_path)
    wait_for(lambda: list((tmp_path / "b" / ".work").glob("teacher-*/teacher.safetensors")), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err and "same command" in err
    assert not (tmp_path / "b" / "teacher").exists()

    said = mmedge("train", file, "--out", tmp_path / "b", "--json")
    assert said.code == 0, said.err
    report = json.loads(said.out)
    assert report["stages"][0]["quality"] == uninterrupted.report.record()["stages"][0]["quality"]
    made = [(tmp_path / run / "teacher" / "weights.safetensors").read_bytes() for run in "ab"]
    assert made[0] == made[1]


THEIRS = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.see = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU())
        self.hear = nn.Sequential(nn.Flatten(), nn.Linear(16 * 24, width), nn.ReLU())
        self.out = nn.Linear(2 * width, 10)

    def forward(self, picture, sound):
        return self.out(torch.cat([self.see(picture), self.hear(sound)], dim=1))
"""


@pytest.mark.long
def test_a_users_network_is_trained_exported_and_started_from(finished, values, tmp_path):
    (tmp_path / "their_net.py").write_text(THEIRS)
    values["teacher"]["model"] = {
        "factory": "their_net:Net",
        "args": {"width": 12},
        "inputs": {"image": "picture", "audio": "sound"},
    }
    values["distill"] = None
    values["prune"] = None
    values["export"] = {"targets": {"onnxruntime-cpu": {}}}
    recipe_of_theirs = parsed(values)
    outcome = pipeline.run(recipe_of_theirs, finished.copied(tmp_path / "out"), code=tmp_path, progress=Silent())
    assert [stage["stage"] for stage in outcome.report.record()["stages"]] == [
        "teacher",
        "quantize",
        "export-onnxruntime-cpu",
    ]
    assert outcome.report.record()["stages"][0]["params"] == 785 * 12 + 385 * 12 + 25 * 10
    assert set(outcome.report.record()["stages"][-1]["subsets"]) == {"image", "audio", "image+audio"}
    assert outcome.exit_code == 0 and (tmp_path / "out" / "bundle" / "model.onnx").is_file()


def test_one_verb_on_a_finished_run_leaves_the_report_whole(finished, tmp_path):
    out = tmp_path / "out"
    finished.whole_copy(out)
    again = pipeline.run(
        recipe.load(finished.recipe_file), out, code=finished.out.parent, progress=Silent(), only="distill"
    )
    assert [stage["stage"] for stage in again.report.record()["stages"]] == [
        s["stage"] for s in finished.report["stages"]
    ]
    assert {stage["status"] for stage in again.report.record()["stages"]} == {"cached"}


def test_a_verb_that_changes_a_stage_drops_what_no_longer_follows_from_it(finished, tmp_path):
    out = tmp_path / "out"
    finished.whole_copy(out)
    changed_recipe = recipe.load(finished.recipe_file, ("quantize.calibration=30",))
    again = pipeline.run(changed_recipe, out, code=finished.out.parent, progress=Silent(), only="quantize")
    assert [(s["stage"], s["status"]) for s in again.report.record()["stages"]][-1] == ("quantize", "ran")


@pytest.mark.long
def test_gates_of_a_stage_that_the_run_was_given_are_not_judged_again(finished, values, tmp_path):
    gated = changed(values, gates={"prune": {"macs_ratio_to_parent": 0.9}, "quantize": {"quality": 0.0}})
    outcome = pipeline.run(
        gated,
        finished.copied(tmp_path / "out"),
        code=tmp_path,
        progress=Silent(),
        start=finished.out / "prune",
        only="quantize",
    )
    assert outcome.exit_code == 0 and outcome.report.record()["verdict"] == "pass"
    by_stage = {stage["stage"]: stage["gates"] for stage in outcome.report.record()["stages"]}
    assert not by_stage["prune"] and by_stage["quantize"][0]["passed"]
