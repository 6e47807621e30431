"""Artifacts and bundles that version 0.1 wrote load, predict what they predicted then, and can be gone on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmedge import artifact, runtime
from tests.fixtures import made
from tests.fixtures.make import answer, raw

STORED = Path(__file__).parent / "fixtures" / "v0_1"
OUTPUT = {"classification": "logits", "multilabel": "logits", "regression": "value"}


@pytest.fixture(params=made.TASKS)
def task(request) -> str:
    return request.param


@pytest.fixture
def expected(task):
    with np.load(STORED / task / "expected.npz") as stored:
        return dict(stored)


@pytest.fixture
def tensors(expected):
    return {name.removeprefix("in."): value for name, value in expected.items() if name.startswith("in.")}


def close(task, actual, expected):
    """INT8 may fall one step to the other side on another CPU; a step is some .03 here, and answers differ by some 3."""
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=0.1 if task == "multilabel" else 1e-4)


@pytest.mark.parametrize("stage", ["teacher", "distill", "prune"])
def test_a_network_of_an_old_artifact_gives_the_outputs_that_it_gave(task, expected, tensors, stage):
    import torch

    from mmedge.data.manifest.source import load_attribute
    from mmedge.models.load import rebuild

    read = artifact.read(STORED / task / stage)
    factory = read.meta["model"]["factory"]
    network = rebuild(read, load_attribute(factory, Path(made.__file__).parent) if factory else None)
    with torch.no_grad():
        outputs = network(**{name: torch.from_numpy(value) for name, value in tensors.items()})
    np.testing.assert_allclose(next(iter(outputs.values())).numpy(), expected[f"{stage}.outputs"], rtol=1e-4, atol=1e-4)


def test_an_old_bundle_gives_the_outputs_that_it_gave_for_every_subset(task, expected, tensors):
    engine = runtime.load(STORED / task / "bundle")
    close(task, engine.run(tensors)[OUTPUT[task]], expected["bundle.outputs"])
    for name in engine.contract.modalities:
        close(task, engine.run({name: tensors[name]})[OUTPUT[task]], expected[f"bundle.{name}.outputs"])


def test_an_old_bundle_answers_raw_files_as_it_did(task, expected, tensors, tmp_path):
    engine = runtime.load(STORED / task / "bundle")
    samples = [raw(row, engine.contract.modalities) for row in made.write(task, tmp_path)]
    for name, given in engine.preprocess(samples).items():
        np.testing.assert_allclose(given, tensors[name], rtol=1e-4, atol=1e-4)
    predictions = engine.predict(**{name: [sample.get(name) for sample in samples] for name in samples[0]})
    np.testing.assert_allclose([answer(one) for one in predictions], expected["predict.outputs"], rtol=0.03, atol=0.03)


def test_an_old_split_engine_has_its_parts():
    engine = runtime.load(STORED / "classification" / "bundle")
    assert all(engine.parts(part) is not None for part in ("picture", "note", "fusion"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "start", "verb", "made_stage"),
    [
        ("classification", "teacher", "distill", "distill"),
        ("regression", "distill", "prune", "prune"),
        ("multilabel", "prune", "quantize", "quantize"),
        ("classification", "quantize", "export", "export-onnxruntime-cpu"),
        ("multilabel", "quantize", "export", "export-onnxruntime-cpu"),
        ("regression", "quantize", "export", "export-onnxruntime-cpu"),
    ],
)
def test_a_stage_goes_on_from_an_old_artifact(mmedge, tmp_path, task, start, verb, made_stage):
    made.write(task, tmp_path)
    shutil.copy(STORED / task / "recipe.yaml", tmp_path)
    shutil.copy(Path(made.__file__).with_name("own.py"), tmp_path)
    parent = shutil.copytree(STORED / task / start, tmp_path / "old" / start)
    short = ["--set", f"{verb}.train.epochs=1"] if verb in ("distill", "prune") else []
    short += ["--set", "gates=none"]  # version 0.1 asked nothing where a recipe said nothing
    said = mmedge(verb, tmp_path / "recipe.yaml", "--from", parent, "--out", tmp_path / "out", "--json", *short)
    assert said.code == 0, said.err
    assert artifact.read(tmp_path / "out" / made_stage).parent == artifact.read(parent).sha256


def test_the_page_of_an_old_report_is_drawn(mmedge, tmp_path, task):
    shutil.copy(STORED / task / "report.json", tmp_path)
    said = mmedge("report", tmp_path, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["recipe"]["name"] == f"made-up {task}"
    assert f"made-up {task}" in (tmp_path / "report.html").read_text(encoding="utf-8")
