"""The cache key of a stage: each part of it changes it, and nothing else does."""

import ast
import inspect
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import mmedge
from mmedge.pipeline import keys
from mmedge.pipeline.ran import Ran, parent_of, teacher_of
from mmedge.pipeline.stages import steps
from mmedge.recipe import Augment
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


def test_what_a_preset_s_name_stands_for_is_in_the_key():
    assert Path(inspect.getfile(Augment)).relative_to(Path(mmedge.__file__).parent).as_posix() in keys.CODE


def key_behind(stage, finished, context):
    """The cache key of a stage behind those of the finished run."""
    every = steps(context.recipe)
    place = [step.name for step in every].index(stage)
    done = [Ran(step, finished.artifact(step.name), "cached", 0.0) for step in every[:place]]
    return keys.key_of(every[place], parent_of(done), teacher_of(done), context)


def test_quantization_is_made_again_where_targets_that_it_follows_are_others(finished, values, context):
    """Targets decide which fallbacks are worth their time, and whether INT8 is trained that is no faster here."""

    def key_for(**targets):
        recipe = parsed(values | {"export": {"targets": {"onnxruntime-cpu": {}} | targets}})
        return key_behind("quantize", finished, replace(context, recipe=recipe))

    alone, elsewhere = key_for(), key_for(tensorrt={})
    assert len({alone, elsewhere, key_for(tensorrt={"precision": "int8"})}) == 3
    assert elsewhere == key_for(tensorrt={"max_batch": 2}) == key_for(**{"openvino-cpu": {}})


@pytest.mark.parametrize("stage", ["distill", "prune", "quantize"])
@pytest.mark.parametrize("changing", ["net_of_a_key.py", "below_it.py", "table.bin", "other.onnx", "teaches.py"])
def test_a_stage_is_made_again_where_a_users_network_or_what_it_needs_changed(
    finished, values, context, stage, changing
):
    files = {"net_of_a_key.py": "import below_it\n", "below_it.py": "x = 1\n", "table.bin": "1"}
    files |= {"other.onnx": "1", "teaches.py": "x = 1\n"}
    for name, text in files.items():
        (context.code / name).write_text(text)
    values["distill"]["model"] = {"factory": "net_of_a_key:net", "args": {"table": str(context.code / "table.bin")}}
    values["teacher"]["model"] = {"factory": "teaches:net"}
    values["distill"]["teachers"] = [{"onnx": str(context.code / "other.onnx")}]
    context = replace(context, recipe=parsed(values))
    found = {key_behind(stage, finished, context), key_behind(stage, finished, context)}
    with (context.code / changing).open("a") as file:
        file.write("#")
    found.add(key_behind(stage, finished, context))
    assert len(found) == 2


def test_what_stages_take_of_the_runtime_is_in_the_hash_of_their_code():
    root = Path(keys.__file__).parent.parent
    folders = [
        root / name for name in ("data", "models", "training", "graph", "measure", "stages/prune", "stages/quantize")
    ]
    taken = {
        node.module.replace(".", "/").removeprefix("mmedge/")
        for folder in folders
        for file in folder.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom)
        and str(node.module).startswith(
            ("mmedge.runtime", "mmedge.tasks", "mmedge.backends", "mmedge.profiling", "mmedge.preprocess")
        )
    }
    assert "profiling/timing" in taken
    assert not [name for name in taken if not name.startswith(tuple(n.removesuffix(".py") for n in keys.CODE))]
