"""A network in parts over two processes learns what it learns whole, is resumed by any number, and none holds all of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from mmedge.progress import Silent
from mmedge.recipe import FurtherTeacher, MainTeacher, Model, Train
from mmedge.training.loop import sharding
from mmedge.training.loop.batches import Training
from mmedge.training.loop.fit import fit
from mmedge.training.objectives import Supervised
from mmedge.training.teaching import lesson
from tests.training.loop.test_fit import CONTRACT, split
from tests.training.loop.test_processes import in_processes

TRAIN = Train(epochs=3, batch_size=18, accumulate=2, optimizer="sgd", learning_rate=0.05, ema=0.9, gradient_clip=0.5)
ROWS = 90


class Block(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.Tanh())

    def forward(self, x):
        return self.inner(x)


class Net(nn.Module):
    """Blocks of an odd width, a number that nobody can have a part of, and a layer that is never used."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), Block(12, 7), Block(7, 7))
        self.head = nn.Linear(7, 3)
        self.scale = nn.Parameter(torch.ones(()))
        self.unused = nn.Linear(2, 2)

    def forward(self, present, series):
        return {"logits": self.head(self.layers(series)) * self.scale}


class Measured(Supervised):
    """The objective, and how many numbers of the network this process holds when it is called."""

    held = 0

    def forward(self, module, batch):
        self.held = sum(x.to_local().numel() if sharding.in_parts(x) else x.numel() for x in module.parameters())
        return super().forward(module, batch)


def fitted(folder: Path, *, sharded, checkpointing=True):
    """The weights and the figures of a training, the numbers that this process held; its state after each epoch is kept."""
    torch.manual_seed(0)
    module, objective = Net(), Measured(CONTRACT, TRAIN)
    train = TRAIN.model_copy(update={"checkpointing": checkpointing})
    training = Training(CONTRACT, split("train", ROWS, 0), split("validation", 60, 1), train, np.arange(ROWS), 0, 0, sharded=sharded)  # fmt: skip
    done = fit(
        module,
        objective,
        training,
        state=folder / "state",
        task="t",
        progress=Silent(),
        log=lambda record: shutil.copy(folder / "state", folder / f"state-{record['epoch']}"),
    )
    figures = [{name: record[name] for name in ("loss", "quality", "selection")} for record in done.history]
    return {"weights": module.state_dict(), "history": figures, "held": objective.held, "notes": list(done.notes)}


WORKER = """
import os, sys, torch
from pathlib import Path
from mmedge.training.loop import processes
from tests.training.loop import test_sharding as t
processes.start()
folder = Path(sys.argv[1])
result = {"whole": t.fitted(folder, sharded=True), "resumed": t.fitted(folder / "resumed", sharded=True)}
torch.save(result, folder / ("rank" + os.environ["RANK"]))
processes.finish()
"""


def same(found, expected):
    for name, value in expected["weights"].items():
        assert type(found["weights"][name]) is torch.Tensor
        torch.testing.assert_close(found["weights"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    for record, wanted in zip(found["history"], expected["history"], strict=True):
        assert record == pytest.approx(wanted, rel=1e-4)


@pytest.mark.long
def test_parts_learn_what_the_whole_does_and_either_goes_on_from_the_other_s_state(tmp_path):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    for folder in (one, two / "resumed", other):
        folder.mkdir(parents=True)
    whole = fitted(one, sharded=True)
    assert whole["notes"] == list(sharding.NOTHING_SHARED)
    shutil.copy(one / "state-1", two / "resumed" / "state")
    in_processes(WORKER, two)
    ranks = [torch.load(two / f"rank{rank}", weights_only=True) for rank in (0, 1)]
    torch.manual_seed(0)
    count = sum(x.numel() for x in Net().parameters())
    for rank in ranks:
        same(rank["whole"], whole)
        same(rank["resumed"], whole)
        assert 0.4 * count < rank["whole"]["held"] < 0.6 * count and rank["whole"]["notes"] == []
    assert not torch.allclose(whole["weights"]["head.weight"], Net().head.weight, atol=0.02)
    shutil.copy(two / "state-1", other / "state")
    same(fitted(other, sharded=False, checkpointing=False), whole)


def test_the_recipe_s_teacher_is_trained_so(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(lesson, "fit", lambda module, objective, training, **_: seen.append(training.sharded))
    context = SimpleNamespace(
        recipe=SimpleNamespace(seed=0),
        dataset=SimpleNamespace(reading=None),
        work=tmp_path,
        progress=Silent(),
        log=lambda name: None,
    )
    for sharded in (False, True):
        taught = lesson.Lesson(CONTRACT, split("train", 9, 0), split("validation", 9, 1), Model(), context, sharded)
        monkeypatch.setattr(lesson, "joined", lambda fits: fits)
        taught.taught(Net(), TRAIN, "teacher", None)
    assert seen == [False, True]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": {"compile": True}}, "does not go with 'train.compile'"),
        ({"train": {"precision": "fp16"}}, "take bf16"),
        ({"train": {"lora": {"rank": 4}}}, "'train.lora'"),
        ({"onnx": "teacher.onnx"}, "is of a network in PyTorch"),
    ],
)
def test_what_a_network_in_parts_cannot_be_trained_with_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        MainTeacher.model_validate({**given, "sharded": True})


def test_a_network_that_is_taken_as_it_is_may_be_in_parts():
    assert MainTeacher.model_validate({"model": {"weights": "w.safetensors"}, "sharded": True}).train is None
    assert FurtherTeacher.model_validate({"artifact": "made", "sharded": True}).sharded
