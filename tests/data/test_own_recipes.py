"""The recipes that users copy for boxes, folds and streams: their scripts make the data, and no fault is in it."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mmedge import recipe as recipes
from mmedge import runtime
from mmedge.data.manifest import source
from mmedge.data.store import samples
from mmedge.pipeline import fold
from mmedge.pipeline.check import check
from mmedge.progress import Silent

RECIPES = Path(__file__).parents[2] / "recipes"


def made(name, target, monkeypatch):
    """Run a recipe's script as a user does."""
    monkeypatch.setattr(sys, "path", [str(RECIPES), *sys.path])
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(target)


@pytest.mark.long
def test_fields_of_forms_are_cut_out_by_boxes_and_every_form_is_tested_once(tmp_path, monkeypatch):
    made("own_folds", tmp_path, monkeypatch)
    overrides = (f"data.manifest={tmp_path / 'fields.csv'}",)
    recipe = recipes.load(RECIPES / "own-folds.yaml", overrides)
    card = check(recipe, tmp_path / "out", code=RECIPES, progress=Silent()).record()
    assert card["faults"] == []
    tested = []
    for index in range(5):
        fold = recipes.load(RECIPES / "own-folds.yaml", (*overrides, f"data.fold.index={index}"))
        table, _ = source.arranged(fold.data, fold.seed)
        test = table.filter(table[source.SPLIT] == "test")
        assert not set(test["group"]) & set(table.filter(table[source.SPLIT] != "test")["group"])
        tested += test[source.ROW].to_list()
    assert sorted(tested) == list(range(1, table.height + 1))


@pytest.mark.long
def test_streams_of_other_rates_are_joined_to_windows_of_the_watch_and_people_are_hashed(tmp_path, monkeypatch):
    made("own_streams", tmp_path, monkeypatch)
    monkeypatch.setenv("MMEDGE_REDACT_KEY", "a long text")
    overrides = (
        f"data.manifest={tmp_path / 'manifest.csv'}",
        f"data.align.turns.file={tmp_path / 'turns.csv'}",
        f"data.align.effort.file={tmp_path / 'effort.csv'}",
    )
    recipe = recipes.load(RECIPES / "own-streams.yaml", overrides)
    assert check(recipe, tmp_path / "out", code=RECIPES, progress=Silent()).record()["errors"] == 0
    data = samples.prepare(recipe, tmp_path / "out", code=RECIPES, progress=Silent())
    turns, effort = data.facts.align
    assert turns.aligned > 0.97 * turns.rows and turns.method == "linear"
    assert effort.aligned == effort.rows and effort.method == "window"
    written = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert b"person 1" not in written
    assert "person 1" not in json.dumps(data.contract.model_dump(mode="json", by_alias=True))


@pytest.mark.slow
def test_the_watchs_next_half_second_is_learnt_from_a_tenth_of_its_windows(tmp_path, monkeypatch):
    made("watch", tmp_path / "watch.npz", monkeypatch)
    with np.load(tmp_path / "watch.npz") as whole:
        np.savez(tmp_path / "few.npz", **{name: x[::10] for name, x in whole.items()})
    small = ("teacher.train.epochs=3", "distill.train.epochs=3", "distill.controls.no_distillation=false", "gates=none")
    recipe = recipes.load(RECIPES / "watch-next.yaml", (f"data.args.arrays={tmp_path / 'few.npz'}", *small))
    outcome = fold.run(recipe, tmp_path / "out", code=RECIPES, progress=Silent())
    assert outcome.exit_code == 0 and outcome.report.stages[-1].quality.value > 0
    found = runtime.load(tmp_path / "out/bundle").predict(motion=np.zeros((3, 100)), rotation=np.zeros((3, 100)))
    assert found.array.shape == (25, 6)
