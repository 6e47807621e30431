"""A frozen teacher of which each of two processes holds a part gives what it gives whole, kept in files or asked at every step."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from mmedge.contract import Contract
from mmedge.models import load
from mmedge.progress import Silent
from mmedge.recipe import Augment, Hint, Model
from mmedge.spec import ArraySpec, ImageSpec
from mmedge.training.loop import processes, sharding
from mmedge.training.loop.batches import Batch
from mmedge.training.teaching import filling
from mmedge.training.teaching.caching import Demand
from mmedge.training.teaching.sources import Inference, ModuleSource, TrainingViews
from mmedge.training.teaching.teachers import Teacher
from tests.heads import samples
from tests.training.loop.test_processes import in_processes

PHOTO = ImageSpec(kind="image", height=16, width=16, channels=1, mean=(0.5,), std=(0.25,))
CONTRACT = Contract(
    task="classification",
    modalities={"photo": PHOTO, "series": ArraySpec(kind="array", shape=(2, 6))},
    labels=("a", "b", "c"),
)
ROWS, HINTS = 90, (Hint(),)
AUGMENT = {"photo": Augment(shift=1), "series": Augment(noise=0.2)}


def data():
    """No photo in the first rows, no series in the last."""
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(ROWS, *spec.shape)).astype(np.float32) for name, spec in CONTRACT.modalities.items()}
    rows = np.arange(ROWS)
    present = np.stack([rows >= 40, rows < 80], axis=1)
    return samples("train", tuple(map(str, rows)), x, present, rows % 3, rows)


def source(sharded):
    torch.manual_seed(0)
    module = load.build(Model.model_validate({"encoders": {"photo": {"kind": "resnet"}}}), CONTRACT)
    views = TrainingViews(data(), AUGMENT, 0)
    return ModuleSource(module, CONTRACT, views, HINTS, key="t", who="the teacher", how=Inference(sharded=sharded))


def taught(folder: Path, rank: int, *, sharded: bool):
    """What is kept of all rows, what is given of rows that each process asks for itself, and how much of the network is held."""
    given = source(sharded)

    def teacher(name, mode, views):
        demand = Demand(3, 16, mode)
        return Teacher(given, ROWS, views, demand=demand, hints=HINTS, folder=folder / name, progress=Silent())

    once, twice, asked = teacher("once", "always", 1), teacher("twice", "always", 2), teacher("asked", "never", 2)
    every = np.arange(ROWS)
    with patch.object(filling, "_BATCH", 16):
        kept, views = numbers(once, every, 0), [numbers(twice, every, view) for view in (0, 1)]
    own = [[0, 1], [39, 40, 85], list(range(30))], [list(range(50, 80)), [3], [88, 41, 2, 60]]
    live = [numbers(asked, np.array(rows), 1) for rows in own[rank]]
    (module,) = given.modules
    held = sum(x.to_local().numel() if sharding.in_parts(x) else x.numel() for x in module.parameters())
    reason, near = teacher("measured", "measured", 2).decision.reason, [*views, *live]
    return {"kept": kept, "near": near, "held": held, "reason": reason, "notes": list(given.notes)}


def numbers(teacher, rows, view):
    batch = Batch(rows, view, {}, torch.ones(len(rows), 2, dtype=torch.bool), {})
    given = teacher.outputs(batch, torch.device("cpu"))
    return [given.heads["logits"].logits, *given.hints]


WORKER = """
import os, sys, torch
from pathlib import Path
from mmedge.training.loop import processes
from tests.training.teaching import test_in_parts as t
processes.start()
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
torch.save(t.taught(folder, rank, sharded=True), folder / f"rank{rank}")
processes.finish()
"""


@pytest.mark.long
def test_a_teacher_in_parts_gives_what_it_gives_whole(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()
    in_processes(WORKER, two)
    ranks = [torch.load(two / f"rank{rank}", weights_only=True) for rank in (0, 1)]
    for rank, found in enumerate(ranks):
        whole = taught(one, rank, sharded=False)
        assert all(map(torch.equal, found["kept"], whole["kept"]))
        # A batch of another size, which is filled up or runs an encoder once for two views, gives other last bits.
        torch.testing.assert_close(found["near"], whole["near"], rtol=1e-5, atol=1e-5)
        assert 0.45 * whole["held"] < found["held"] < 0.55 * whole["held"] and found["notes"] == []
    files = sorted(path.name for path in (one / "once").glob("*.npy"))
    assert len(files) == 3
    for name in files:
        assert (two / "once" / name).read_bytes() == (one / "once" / name).read_bytes()
    assert ranks[0]["reason"] == ranks[1]["reason"] and "takes the teacher" in ranks[0]["reason"]


def test_processes_make_the_same_passes_whatever_modalities_their_rows_have(monkeypatch):
    both, photo = (True, True), (True, False)
    rows = np.arange(40)
    own = [
        [sharding.Pass(both, rows[:20], 20), sharding.Pass(both, rows[20:21], 1)],
        [sharding.Pass(photo, rows[:2], 2), sharding.Pass(both, rows[2:3], 1)],
    ]
    told = [[(one.kind, one.count) for one in passes] for passes in own]
    monkeypatch.setattr(processes, "each", lambda value: told)
    found = [sharding.in_step(passes) for passes in own]
    assert [[one.kind for one in passes] for passes in found] == [[photo, both, both]] * 2
    # Two rows or fewer are run by encoders that none of them needs: no process does that while another does not.
    assert [[one.count for one in passes] for passes in found] == [[2, 20, 1], [2, 3, 1]]
    assert [[one.rows.tolist() for one in passes] for passes in found] == [[[], [*range(20)], [20]], [[0, 1], [2], []]]


def test_rows_that_fill_a_pass_up_are_let_go_of(monkeypatch):
    whole, parts = source(False), source(False)
    index = np.array([85, 3, 50])
    asked = whole.outputs(index, 1)
    parts._in_parts = True
    fuller = lambda own: [sharding.Pass((False, False), np.empty(0, np.int64), 3), *(sharding.Pass(one.kind, one.rows, 5) for one in own)]  # noqa: E731  # fmt: skip
    monkeypatch.setattr(sharding, "in_step", fuller)
    found = parts.outputs(index, 1)
    np.testing.assert_allclose(found.logits["logits"], asked.logits["logits"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.hints[0], asked.hints[0], rtol=1e-5, atol=1e-5)


def test_in_one_process_nothing_is_divided_and_that_is_told():
    assert source(True).notes == sharding.NOTHING_SHARED and source(False).notes == ()
