"""Two processes on this CPU (gloo) train what one does: the same rows, the same losses and weights, one state written."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.cli.launch import _free_port
from mmedge.progress import Silent
from mmedge.recipe import Augment, Hint, Loss, Train
from mmedge.training.loop.batches import Training, batches
from mmedge.training.loop.fit import fit
from mmedge.training.objectives import Distillation
from mmedge.training.teaching import filling
from mmedge.training.teaching.caching import Demand
from mmedge.training.teaching.sources import ModuleSource, TrainingViews
from mmedge.training.teaching.teachers import Teacher
from tests.conftest import child_environment
from tests.training.loop.test_fit import CONTRACT, split

pytestmark = pytest.mark.long

# SGD, since AdamW makes of a gradient that is zero but for rounding a step of full length.
TRAIN = Train(
    epochs=3,
    batch_size=18,
    accumulate=2,
    optimizer="sgd",
    learning_rate=0.05,
    ema=0.9,
    views=2,
    augment={"series": Augment(shift=1, noise=0.2)},
)
ROWS = 90


class Net(nn.Module):
    """With batch norm and without dropout, whose draws cannot be those of one process; a layer that is never used."""

    def __init__(self):
        super().__init__()
        self.fusion = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.head = nn.Linear(8, 3)
        self.unused = nn.Linear(2, 2)
        self.calls = 0

    def forward(self, present, series):
        self.calls += 1
        return {"logits": self.head(self.fusion(series))}


class Seen(nn.Module):
    """The objective, and the rows that this process was shown, a list a part of a batch."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.rows = inner, []

    def forward(self, module, batch):
        self.rows.append(batch.index.tolist())
        return self.inner(module, batch)


def half_labelled():
    """The labels lie unevenly: a process's part of a batch may have none."""
    samples = split("train", ROWS, 0)
    return replace(samples, targets=samples.hidden(np.arange(ROWS) >= 45))


def distilled(folder: Path):
    """The student's weights, the rows shown, the losses, and how often the teacher was asked."""
    torch.manual_seed(0)
    teacher, student, samples, hints = Net(), Net(), half_labelled(), [Hint()]
    source = ModuleSource(
        teacher, CONTRACT, TrainingViews(samples, TRAIN.augment, 0), hints, key="t", who="the teacher"
    )
    demand = Demand(3, 18, "always")
    teaches = Teacher(source, ROWS, 2, demand=demand, hints=hints, folder=folder / "answers", progress=Silent())
    objective = Seen(Distillation(student, teaches, CONTRACT, Loss(hints=(Hint(),)), TRAIN))
    with patch.object(filling, "_BATCH", 16):
        fitted = fit(
            student,
            objective,
            Training(CONTRACT, samples, split("validation", 60, 1), TRAIN, np.arange(ROWS), 0, 0),
            state=folder / "state",
            task="t",
            progress=Silent(),
        )
    history = [
        {name: value for name, value in record.items() if name not in ("seconds", "waiting")}
        for record in fitted.history
    ]
    return {"weights": student.state_dict(), "rows": objective.rows, "history": history, "asked": teacher.calls}


def in_processes(code: str, folder: Path, count: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Run ``code`` with the folder as its argument in processes that train together."""
    environment = {**child_environment(), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    environment |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=environment["PYTHONPATH"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    said = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [0] * count, "\n".join(said)
    return children


WORKER = """
import os, sys, torch
from pathlib import Path
from mmedge.training.loop import processes
from tests.training.loop import test_processes as t
processes.start()
result = t.distilled(Path(sys.argv[1]))
torch.save(result, Path(sys.argv[1]) / ("rank" + os.environ["RANK"]))
processes.finish()
assert processes.count() == 1
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What one process makes, and what each of two does."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    in_processes(WORKER, two)
    ranks = [torch.load(two / f"rank{rank}", weights_only=True) for rank in (0, 1)]
    return distilled(one), ranks, (one, two)


def test_every_row_of_a_batch_is_shown_to_one_process_and_none_is_lost(trained):
    one, ranks, _ = trained
    assert all(len(rank["rows"]) == 3 * 5 * 2 for rank in ranks)
    for step in range(15):
        parts = [ranks[0]["rows"][part] + ranks[1]["rows"][part] for part in (2 * step, 2 * step + 1)]
        assert parts == one["rows"][2 * step : 2 * step + 2]
        assert len({row for part in parts for row in part}) == 18
    per_epoch = [
        sorted(row for rank in ranks for part in rank["rows"][10 * e : 10 * e + 10] for row in part) for e in range(3)
    ]
    assert per_epoch == [list(range(ROWS))] * 3


def test_two_processes_end_with_the_weights_and_figures_of_one_and_with_the_same_as_each_other(trained):
    one, (first, second), _ = trained
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    for name, value in one["weights"].items():
        torch.testing.assert_close(first["weights"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    torch.manual_seed(0)
    assert not torch.allclose(one["weights"]["head.weight"], Net().head.weight, atol=0.02)
    assert first["history"] == second["history"]
    for record, expected in zip(first["history"], one["history"], strict=True):
        assert record == pytest.approx(expected, rel=1e-4)


def test_each_process_asks_the_teacher_for_its_share_and_the_files_are_those_of_one(trained):
    one, (first, second), (alone, folder) = trained
    # Of two views six batches each, of which each process computes three; and once for the hints' widths.
    assert (one["asked"], first["asked"], second["asked"]) == (1 + 2 * 6, 1 + 2 * 3, 1 + 2 * 3)
    assert sorted(path.name for path in folder.iterdir()) == ["answers", "rank0", "rank1", "state"]
    files = sorted(path.name for path in (folder / "answers").glob("*.npy"))
    assert len(files) == 2 * 3 and files == sorted(path.name for path in (alone / "answers").glob("*.npy"))
    for name in files:
        assert (folder / "answers" / name).read_bytes() == (alone / "answers" / name).read_bytes()


@pytest.mark.parametrize(("count", "accumulate"), [(1, 1), (2, 1), (3, 2), (7, 1)])
def test_the_parts_of_all_processes_are_the_batch_of_one(count, accumulate):
    samples = split("train", 40, 0)
    train = Train(batch_size=16, modality_dropout=0.0, accumulate=accumulate)

    def drawn(**own):
        return list(batches(Training(CONTRACT, samples, samples, train, np.arange(40), 0, 0), epoch=1, **own))

    for whole, *parts in zip(drawn(), *(drawn(rank=rank, count=count) for rank in range(count)), strict=True):
        assert np.concatenate([part.index for part in parts]).tolist() == whole.index.tolist()
        assert sum(part.share for part in parts) == pytest.approx(1 / accumulate)
        assert all(part.share == len(part.index) / 16 for part in parts)


def test_one_process_is_its_own_main_process():
    from mmedge.training.loop import processes

    assert "WORLD_SIZE" not in os.environ
    assert processes.count() == 1 and processes.is_main() and not processes.launched()
    assert processes.of_main(lambda: 3) == 3


SUM = """
import torch
from mmedge.training.loop import processes
processes.start()
print(processes.rank(), processes.count(), processes.is_main(), processes.total(torch.tensor(processes.rank() + 1.0)).item())
processes.finish()
"""


def test_processes_that_mpirun_started_find_each_other_by_its_variables(tmp_path):
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SUM],
            env=child_environment()
            | where
            | {f"OMPI_COMM_WORLD_{name}": value for name, value in (("SIZE", "2"), ("RANK", str(rank)))}
            | {f"OMPI_COMM_WORLD_LOCAL_{name}": value for name, value in (("SIZE", "2"), ("RANK", str(rank)))},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120)[0].split() for process in started]
    assert said == [["0", "2", "True", "3.0"], ["1", "2", "False", "3.0"]]


def test_one_process_that_accelerate_started_in_place_of_several_knows_it(monkeypatch):
    from mmedge.training.loop import processes

    assert not processes.launched_alone()
    for name, value in (("ACCELERATE_MIXED_PRECISION", "no"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    assert processes.launched_alone()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not processes.launched_alone()
