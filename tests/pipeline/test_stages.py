"""The table of stages: what a recipe has of it, and that a new row is all that a new stage needs beside its own file."""

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmedge import recipe as recipes
from mmedge.pipeline import fold, stages
from mmedge.pipeline.stages import STAGES, Stage, steps
from mmedge.progress import Silent
from mmedge.recipe.section import StageSection
from mmedge.report.html import write_html
from mmedge.stages.results import StageResult
from mmedge.stages.trained import write_unchanged
from tests.conftest import child_environment, parsed


class Relay(StageSection):
    """A stage of this test: its parent goes on as it is."""

    stage = "relay"

    word: str = "handed on"


class Longer(recipes.Recipe):
    relaying: Relay | None = None


def relay(parent, config, context):
    return StageResult.of(write_unchanged(parent, context), notes=[config.word])


FILE = str(Path(__file__).with_suffix(""))
RELAY = Stage("relay", "hand-on", "relaying", "smaller", FILE, "Hand its parent on as it is.", relay)


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(stages, "STAGES", (*STAGES[:3], RELAY, *STAGES[3:]))


# Of sixty test samples a hardly trained network is not shown to be better than who always says the same.
UNGUARDED = {"export-onnxruntime-cpu": {"above_majority": -1.0}}


def longer(values, word="handed on"):
    read = dict(parsed(copy.deepcopy(values) | {"export": {"targets": {"onnxruntime-cpu": {}}}}))
    read |= {"schema": read.pop("schema_"), "relaying": {"word": word}, "gates": {"relay": {"macs": 1}, **UNGUARDED}}
    return Longer.model_validate(read)


@pytest.mark.long
def test_a_new_stage_is_a_row_it_runs_resumes_is_judged_and_stands_in_the_report(finished, values, tmp_path, table):
    shutil.copytree(finished.out, tmp_path / "out")
    status = {}
    for turn, read in (("first", longer(values)), ("again", longer(values)), ("other", longer(values, "as it is"))):
        outcome = fold.run(read, tmp_path / "out", code=tmp_path, progress=Silent())
        status[turn] = {stage["stage"]: stage["status"] for stage in outcome.report.record()["stages"]}
        assert outcome.exit_code == 4  # by its gate on the multiply-accumulates
    before = dict.fromkeys(("teacher", "distill", "prune"), "cached")
    assert status["first"] == before | dict.fromkeys(("relay", "quantize", "export-onnxruntime-cpu"), "ran")
    assert list(status["first"]) == [step.name for step in steps(longer(values))]
    assert set(status["again"].values()) == {"cached"} and status["other"] == status["first"]
    by_stage = {stage["stage"]: stage for stage in outcome.report.record()["stages"]}
    assert by_stage["relay"]["parent"] == by_stage["prune"]["sha256"]
    assert by_stage["quantize"]["parent"] == by_stage["relay"]["sha256"]
    assert by_stage["relay"]["notes"][0] == "as it is" and by_stage["relay"]["latency"]["ratio_to_parent"] > 0
    assert by_stage["relay"]["quality"] == by_stage["prune"]["quality"]
    assert [gate["passed"] for gate in by_stage["relay"]["gates"]] == [False]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["stages"] == outcome.report.record()["stages"]
    write_html(outcome.report, tmp_path / "report.html")
    assert "relay" in (tmp_path / "report.html").read_text()


def test_the_verb_of_a_new_stage_takes_what_is_in_front_of_it(finished, values, tmp_path, table):
    out = finished.copied(tmp_path / "out", "teacher", "distill", "prune")
    outcome = fold.run(longer(values), out, code=tmp_path, progress=Silent(), only="relay")
    assert {stage["stage"]: stage["status"] for stage in outcome.report.record()["stages"]} == {
        "teacher": "cached",
        "distill": "cached",
        "prune": "cached",
        "relay": "ran",
    }


def test_a_row_has_its_verb_on_the_command_line(mmedge, table):
    said = mmedge("hand-on", "--help")
    assert said.code == 0 and RELAY.help in said.out and "--from" in said.out
    listed = mmedge("--help").out
    assert re.search(rf"^  hand-on +{RELAY.help}$", listed, re.M) and "relay" not in listed.split()
    said = mmedge("hand-in")
    assert said.code == 2 and "no command 'hand-in' (did you mean 'hand-on'?)" in said.err


def test_help_reads_the_table_without_what_a_stage_needs():
    code = "import sys; from mmedge.pipeline.stages import STAGES; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True)
    assert not {"torch", "numpy", "pydantic", "mmedge.recipe"} & set(done.stdout.split()) and done.returncode == 0


def test_a_recipe_has_the_stages_of_its_sections_and_an_engine_for_every_target(values):
    values["prune"] = None
    names = [step.name for step in steps(parsed(values))]
    assert names == ["teacher", "distill", "quantize", "export-onnxruntime-cpu", "export-tensorrt-rtx"]
    assert names == parsed(values).stages
    assert [step.part for step in steps(parsed(values))][-2:] == ["onnxruntime-cpu", "tensorrt-rtx"]


HEAVY = ("torch", "nncf", "onnx", "onnxruntime", "matplotlib", "sklearn", "scipy")


def test_a_run_that_computes_nothing_waits_for_no_library_that_computes(finished, mmedge, tmp_path):
    out = finished.whole_copy(tmp_path / "out")
    command = ("run", finished.recipe_file, "--out", out)
    assert mmedge(*command).code == 0  # draws the pictures, which are kept
    page = (out / "report.html").read_text()
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('imported', *(name for name in {HEAVY} if name in sys.modules)))\n"
        "from mmedge.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], env=child_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.split("\n")[0] == "imported", done.stderr
    moment = r"\d{4}-\d\d-\d\dT[\d:.+]+"  # when the run was made
    assert re.sub(moment, "", (out / "report.html").read_text()) == re.sub(moment, "", page)
