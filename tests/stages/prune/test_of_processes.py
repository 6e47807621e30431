"""Pruning in two processes: one measures, both know."""

import json

import pytest

from tests.conftest import write_recipe
from tests.training.loop.test_processes import in_processes

SHARED = """
import json, os, sys
from pathlib import Path
from mmedge import artifact, recipe
from mmedge.data.store import samples
from mmedge.progress import Silent
from dataclasses import replace
from mmedge.pipeline.fold import make
from mmedge.stages import prune
from mmedge.stages.prune.work import work_on
from mmedge.training.loop import processes
from mmedge.training.context import Context
processes.start()
folder = Path(sys.argv[1])
read = recipe.load(folder / "recipe.json")
dataset = samples.prepare(read, folder / "out", code=folder, progress=Silent())
context = Context(read, dataset, folder / "w", folder, Silent(), artifact.read(folder / "out" / "teacher"))
parent = artifact.read(folder / "out" / "distill")
module = context.rebuild(parent)
work = work_on(parent, module, recipe.Prune(), context)
found = {
    "latency": work.latencies({"same": module})["same"].record(),
    "computed": work.remembered("a", 0, str, lambda: os.environ["RANK"]),
    "again": work.remembered("a", 0, str, lambda: "not asked"),
}
untouched = recipe.Prune(branches={"image": 0, "audio": 0, "fusion": 0}, round_to=2, ratios=(0.5,))
there = replace(context, out=folder, stage="made", key=f"by rank {os.environ['RANK']}")
made = make(prune.prune, parent, untouched, there)
(folder / f"rank{os.environ['RANK']}").write_text(json.dumps(found | {"key": made.key}))
processes.finish()
"""


@pytest.mark.long
def test_of_two_processes_the_main_one_measures_remembers_and_writes_for_both(finished, values, tmp_path):
    finished.copied(tmp_path / "out", "teacher", "distill")
    write_recipe(values, tmp_path / "recipe.json")
    in_processes(SHARED, tmp_path)
    first, second = (json.loads((tmp_path / f"rank{rank}").read_text()) for rank in (0, 1))
    assert first == second  # latencies that two had measured would differ
    assert first["computed"] == first["again"] == "0" and first["key"] == "by rank 0"
