"""The cache key of a stage: each part of it changes it, and nothing else does."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from mmedge.pipeline import keys
from mmedge.pipeline.stages import steps
from tests.conftest import parsed, tiny

PARENT, TEACHER = SimpleNamespace(sha256="p"), SimpleNamespace(sha256="t")


@pytest.fixture
def key(tmp_path):
    """``key(stage, **changes)``: of the tiny recipe with a file of weights, or of another recipe, dataset, parent, teacher."""
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"1")

    def of(stage, *, parent=PARENT, teacher=TEACHER, data="d", content=b"1", change=lambda values: None):
        weights.write_bytes(content)
        values = tiny(tmp_path / "manifest.csv")
        for name in ("teacher", "distill"):
            values[name]["model"]["weights"] = str(weights)
        change(values)
        recipe = parsed(values)
        context = SimpleNamespace(
            recipe=recipe, dataset=SimpleNamespace(sha256=data), code=tmp_path, progress=SimpleNamespace(say=print)
        )
        step = next(step for step in steps(recipe) if step.name == stage)
        return keys.key_of(step, parent, teacher, context)

    return of


def seed(values):
    values["seed"] = 1


def mels(values):
    values["data"]["modalities"]["audio"]["mels"] = 12


def workers(values):
    values["data"]["workers"] = 2


def epochs(section):
    def change(values):
        values[section]["train"]["epochs"] = 3

    return change


@pytest.mark.parametrize("stage", ["teacher", "distill", "prune", "quantize", "export-onnxruntime-cpu"])
@pytest.mark.parametrize(
    "changes", [{"data": "e"}, {"parent": SimpleNamespace(sha256="q")}, {"change": seed}, {"change": mels}]
)
def test_the_data_the_parent_and_the_seed_are_in_every_stages_key(key, stage, changes):
    assert key(stage) == key(stage) != key(stage, **changes)


@pytest.mark.parametrize(
    ("stage", "depends"),
    [("teacher", False), ("distill", True), ("prune", True), ("quantize", True), ("export-onnxruntime-cpu", False)],
)
def test_the_teacher_is_in_the_keys_of_what_it_teaches_and_of_nothing_else(key, stage, depends):
    assert (key(stage) != key(stage, teacher=SimpleNamespace(sha256="u"))) == depends


@pytest.mark.parametrize("stage", ["teacher", "distill"])
def test_the_bytes_of_weights_are_in_the_key_of_the_stage_that_names_them(key, stage):
    assert key(stage) != key(stage, content=b"2")


@pytest.mark.parametrize(
    ("section", "stages"),
    [
        ("teacher", {"teacher"}),
        ("distill", {"distill", "prune", "quantize"}),
        ("prune", {"prune"}),
    ],
)
def test_a_section_is_in_the_keys_of_its_own_stage_and_of_those_that_go_by_it(key, section, stages):
    every = ("teacher", "distill", "prune", "quantize", "export-onnxruntime-cpu")
    assert {stage for stage in every if key(stage) != key(stage, change=epochs(section))} == stages


def test_how_many_processes_decode_is_in_no_key(key):
    assert key("distill") == key("distill", change=workers)


def test_the_code_of_the_stage_and_what_all_share_is_in_the_key(key, monkeypatch):
    named = []
    monkeypatch.setattr(keys, "code_hash", lambda *names: named.append(names) or "h")
    key("prune")
    assert set(named[0]) == {*keys.CODE, "stages/prune"}
