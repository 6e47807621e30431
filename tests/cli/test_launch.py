"""``--devices N``: the command as one, whatever happens in any of its processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmedge import artifact
from mmedge.cli.common import framed
from mmedge.errors import Interrupted
from tests.conftest import child_environment, write_recipe


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mmedge", *map(str, arguments)]


def call(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=child_environment(), cwd=cwd, capture_output=True, text=True, timeout=300
    )


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def losses(made: artifact.Artifact) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader(made.file("training.csv").open())]


@pytest.mark.long
def test_two_processes_train_as_one_does_and_write_one_artifact_and_one_document(finished, tmp_path):
    out = finished.copied(tmp_path / "out")
    said = call("train", finished.recipe_file, "--out", out, "--devices", 2, "--json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert [stage["stage"] for stage in json.loads(said.stdout)["stages"]] == ["teacher"]
    # Dropout draws otherwise in each process; the batches, views and masks are the same.
    assert losses(artifact.read(out / "teacher")) == pytest.approx(losses(finished.artifact("teacher")), rel=0.05)
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == [".work"]
    assert not list((out / ".work").glob("teacher-*"))
    assert said.stderr.count("training the teacher") <= 4 and "[rank" not in said.stderr


@pytest.mark.slow
def test_two_processes_distil_as_one_does(finished, tmp_path):
    out = finished.copied(tmp_path / "out", "teacher")
    said = call("distill", finished.recipe_file, "--out", out, "--devices", 2, "--json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    made, one = artifact.read(out / "distill"), finished.artifact("distill")
    assert made.meta["students"] == one.meta["students"]
    assert losses(made) == pytest.approx(losses(one), rel=0.05)
    assert said.stderr.count("distilling, seed 1") <= 4


@pytest.mark.slow
def test_two_processes_prune_to_one_plan_by_the_main_ones_measurements(finished, values, tmp_path):
    # The budget in latency and the block of channels are measured: two processes that measured would cut differently.
    values["prune"] |= {"macs": None, "budget": {"latency": 0.97}, "round_to": "auto"}
    file, out = write_recipe(values, tmp_path / "recipe.json"), finished.copied(tmp_path / "out", "teacher", "distill")
    said = call("prune", file, "--out", out, "--devices", 2, "--json", cwd=tmp_path)
    assert said.returncode in (0, 4), said.stderr
    made = artifact.read(out / "prune")
    assert made.meta["pruning"]["attempts"] and made.meta["pruning"]["round_to_ms"]
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == [".work"]
    assert not list((out / ".work").glob("prune-*"))


BROKEN = """
import os
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        if os.environ.get("RANK") == "1":
            raise ValueError("this part is broken")
        self.layer = nn.LazyLinear(10)
    def forward(self, image, audio):
        return self.layer(image.flatten(1))
"""


@pytest.mark.long
def test_an_error_in_one_process_ends_all_with_its_message(finished, values, tmp_path):
    finished.copied(tmp_path / "out")
    (tmp_path / "broken.py").write_text(BROKEN)
    values["teacher"]["model"] = {"factory": "broken:Net"}
    file = write_recipe(values, tmp_path / "recipe.json")
    said = call("train", file, "--out", tmp_path / "out", "--devices", 2, cwd=tmp_path)
    assert said.returncode == 1, said.stderr
    assert "process 1: " in said.stderr and "this part is broken" in said.stderr
    assert "Traceback" not in said.stderr and not (tmp_path / "out" / "teacher").exists()


@pytest.mark.long
def test_a_fault_of_the_recipe_is_told_once_with_its_exit_code(values, tmp_path):
    values["teacher"]["train"]["epoch"] = 3
    said = call("train", write_recipe(values, tmp_path / "r.json"), "--devices", 2, cwd=tmp_path)
    assert said.returncode == 2 and said.stderr.count("did you mean 'epochs'") == 1


@pytest.mark.long
def test_ctrl_c_ends_every_process_with_130_and_what_was_trained_is_saved(finished, values, tmp_path):
    values["teacher"]["train"]["epochs"] = 500
    file, out = write_recipe(values, tmp_path / "recipe.json"), finished.copied(tmp_path / "out")
    started = subprocess.Popen(
        command("train", file, "--out", out, "--devices", 2),
        env=child_environment(),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(out.glob(".work/teacher-*/teacher.safetensors")):
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.1)
    children = children_of(started.pid)
    os.kill(started.pid, signal.SIGINT)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 130 and said.count("run the same command again") == 1, said
    assert len(children) == 2 and not any(map(running, children))
    assert list(out.glob(".work/teacher-*/teacher.safetensors")) and not (out / "teacher").exists()


def test_where_a_process_cannot_be_started_those_before_it_are_ended(monkeypatch):
    from mmedge.cli import launch

    started = []

    def begun(rank, devices, port, text):
        if rank == 1:
            raise OSError("no more processes")
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stderr=text))
        return started[0]

    monkeypatch.setattr(launch, "_started", begun)
    with pytest.raises(OSError, match="no more processes"):
        launch.launch(2)
    assert started[0].poll() is not None


def test_an_interrupt_is_130_however_the_main_process_ends_by_it(monkeypatch):
    from mmedge.cli import launch

    def begun(rank, devices, port, text):
        if rank == 1:  # not by the clock: on a busy machine nothing may be there yet that takes the signal
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        # One with no handler yet: the signal ends it.
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    monkeypatch.setattr(launch, "_started", begun)
    with pytest.raises(Interrupted, match="interrupted"):
        launch.launch(2)


def test_what_a_library_makes_of_an_interrupt_is_an_interrupt_still(capsys):
    @framed
    def verb(*, as_json: bool) -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            raised = RuntimeError("KeyboardInterrupt: <EMPTY MESSAGE>")  # pybind11's words: nothing is chained
        raise raised

    assert verb(as_json=False, debug=False) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
