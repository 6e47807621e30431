"""A new backend is its file (here tests/backends/saved.py) and one row of the table: every verb then knows it."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmedge import artifact, backends, recipe, runtime
from mmedge import bundle as bundles
from mmedge.backends import Missing
from mmedge.errors import MissingDependency, MmedgeError, UsageError
from mmedge.profiling import doctor
from mmedge.profiling.profile import ProfileOptions, measured
from mmedge.profiling.rebuild import rebuild
from mmedge.stages import export
from tests.backends import saved
from tests.stages.test_export import bundled, context, exported, parent  # noqa: F401

NAME = "onnxruntime-saved"
RECIPE = {
    "schema": 1,
    "name": "r",
    "data": {"manifest": "m.csv", "target": "y", "modalities": {"image": {"kind": "image", "height": 8, "width": 8}}},
    "teacher": {"model": {}},
}


@pytest.fixture(autouse=True)
def row(monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, NAME, "tests.backends.saved")


def parsed(**options):
    values = {**RECIPE, "export": {"targets": {"onnxruntime-cpu": {}, NAME: options}}}
    return recipe.parse(values, where=Path("r.yaml"))


def test_a_recipe_takes_it_with_its_own_options_and_tells_faults_of_them():
    read = parsed(level="all", precision="fp16")
    assert read.export.targets[NAME].level == "all" and read.stages[-1] == f"export-{NAME}"
    assert read.resolved()["export"]["targets"][NAME]["level"] == "all"
    for options, said in (
        ({"levle": "all"}, rf"unknown key 'export\.targets\.{NAME}\.levle'"),
        ({"level": "most"}, rf"export\.targets\.{NAME}\.level: .*'basic' or 'all'"),
        ({"precision": "int8"}, f"{NAME} lacks int8: it is a test's"),
    ):
        with pytest.raises(UsageError, match=said):
            parsed(**options)


def test_it_is_built_measured_bundled_loaded_profiled_and_built_again(parent, context, tmp_path):  # noqa: F811
    made = [exported(parent, context, name, tmp_path) for name in ("onnxruntime-cpu", NAME)]
    meta = made[1].meta
    assert meta["engine"]["file"] == "engine.optimized.onnx" and meta["engine"]["level"] == "basic"
    assert meta["latency"]["target"] == NAME and meta["latency"]["ratio_to_parent"] > 0
    assert export.measured_file(made[1]) == (made[1].file("engine.optimized.onnx"), NAME)
    path = bundled(*made, path=tmp_path / "bundle")

    sample = {"image": np.full((8, 8), 90, np.uint8), "vitals": [1.0, 2.0, 3.0]}
    ours, theirs = runtime.load(path, NAME), runtime.load(path)
    assert ours.predict(**sample).probabilities == pytest.approx(theirs.predict(**sample).probabilities, abs=1e-3)
    assert ours.predict(vitals=[1.0, 2.0, 3.0]).label == theirs.predict(vitals=[1.0, 2.0, 3.0]).label

    record = measured([path], ProfileOptions(target=NAME, runs=20, idle_s=0.0, seconds=0.02, streams=(1,))).record()
    (model,) = record["models"]
    assert model["target"] == NAME and model["load_ms"] > 0 and set(model["branches"]) == {"image", "vitals", "fusion"}
    json.dumps(record, allow_nan=False)

    with bundles.rewriting(artifact.read(path)) as (_, meta):
        engine = meta["targets"][NAME]["engine"] | {"version": "0.9"}
        meta["targets"] = meta["targets"] | {NAME: meta["targets"][NAME] | {"engine": engine}}
    with pytest.raises(MmedgeError, match=r"saved by ONNX Runtime 0\.9(.|\n)*--rebuild"):
        runtime.load(path, NAME)
    assert rebuild(path)[NAME].version == saved._version()
    assert runtime.load(path, NAME).predict(**sample) == ours.predict(**sample)


def test_what_a_machine_lacks_for_it_is_told_by_the_doctor_and_before_a_run(monkeypatch):
    assert doctor.examine().record()["targets"][NAME] == {
        verb: {"ready": True, "missing": []} for verb in ("build", "run")
    }
    monkeypatch.setattr(saved, "ABSENT", [Missing("the package of a test", "pip install it")])
    missing = {"ready": False, "missing": [{"what": "the package of a test", "get": "pip install it"}]}
    assert doctor.examine().record()["targets"][NAME] == {"build": missing, "run": missing}
    assert not backends.can_run(NAME)
    with pytest.raises(MissingDependency, match=f"{NAME} was asked for and the package of a test is not installed"):
        backends.require_builder(NAME)
