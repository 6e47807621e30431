"""A teacher of pretrained encoders in a recipe: one line a modality, from check to the bundle."""

import json
import shutil
from pathlib import Path

import pytest

from mmedge import recipe
from mmedge.artifact import read
from mmedge.pipeline import check, fold
from mmedge.pipeline.brought import brought_faults, with_preprocessing
from mmedge.progress import Silent
from tests.conftest import once
from tests.models.pretrained import folders


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return once(tmp_path_factory, "pretrained-folders", folders.everything)


@pytest.fixture(scope="module")
def ran(made, tmp_path_factory) -> Path:
    def make(folder: Path) -> None:
        values = folders.values(made)
        del values["export"]
        fold.run(recipe.parse(values, where=Path("tiny"), folder=made), folder, code=made, progress=Silent(), only="teacher")  # fmt: skip

    return once(tmp_path_factory, "pretrained-teacher", make)


def parsed(values: dict, made: Path) -> recipe.Recipe:
    return recipe.parse(values, where=Path("tiny"), folder=made)


def faults(values: dict, made: Path, out: Path) -> list[str]:
    found = check.check(parsed(values, made), out, code=made, progress=Silent())
    return [
        fault.what
        for fault in found.faults
        if fault.kind in ("model", "assumed", "preprocessing", "export", "checkpoint")
    ]


def test_the_teacher_preprocesses_as_its_encoders_were_trained_and_the_student_as_the_data_says(made):
    found, notes = with_preprocessing(parsed(folders.values(made), made))
    theirs = found.teacher.preprocessing
    assert (theirs["picture"].height, found.data.modalities["picture"].height, notes) == (16, 12, [])
    assert theirs["name"].tokenizer_file == made / "bert" / "tokenizer.json"


def test_what_the_recipe_says_of_a_teachers_preprocessing_is_left_alone(made):
    values = folders.values(made)
    values["teacher"]["preprocessing"] = {"picture": {"kind": "image", "height": 16, "width": 16}}
    assert with_preprocessing(parsed(values, made))[0].teacher.preprocessing["picture"].mean is None


@pytest.mark.long
def test_a_recipe_without_glue_is_checked_clean(made, tmp_path):
    assert not faults(folders.values(made), made, tmp_path)


def test_check_tells_weights_that_a_run_would_refuse(made, tmp_path):
    folder = shutil.copytree(made / "bert", tmp_path / "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    values = folders.values(made)
    values["teacher"]["model"]["encoders"] = {"name": {"hf": str(folder)}}
    assert any("the weights are pickled" in what for what in faults(values, made, tmp_path / "out"))


@pytest.mark.parametrize("stages", [("teacher",), ("distill",), ("teacher", "distill")])
def test_a_folder_that_is_not_there_is_told_once_a_stage(made, tmp_path, stages):
    values = folders.values(made)
    for stage in stages:
        values[stage]["model"]["encoders"] = {"name": {"hf": "./nowhere"}}
    told = faults(values, made, tmp_path / "out")
    assert told.count("encoders.name: the folder does not exist") == len(stages)
    assert sum("the folder does not exist" in what for what in told) == len(stages)


@pytest.mark.long
@pytest.mark.parametrize("alone", [False, True])
def test_check_tells_what_a_schedule_says_and_nothing_follows(made, tmp_path, alone):
    values = folders.values(made)
    values["teacher"]["train"] = {"epochs": 2, "thaw": 99}
    values["distill"]["train"] = {"epochs": 2, "layer_decay": 0.8}
    if alone:
        del values["distill"]
        values["data"]["modalities"]["picture"] |= {"height": 16, "width": 16}
        values["data"]["modalities"]["name"]["tokenizer_file"] = f"{made}/bert/tokenizer.json"
    card = check.check(parsed(values, made), tmp_path, code=made, progress=Silent())
    found = [(fault.severity, fault.module) for fault in card.faults if fault.kind == "transfer"]
    assert found == [("warning", f"{stage}.train") for stage in (["teacher"] if alone else ["distill", "teacher"])]


def test_check_tells_a_tokenizer_of_the_teachers_folder_that_cannot_be_read(made, tmp_path):
    folder = shutil.copytree(made / "bert", tmp_path / "bert")
    (folder / "tokenizer.json").write_text("{}")
    values = folders.values(made)
    values["teacher"]["model"]["encoders"] = {"name": {"hf": str(folder)}}
    told = [fault.what for fault in brought_faults(parsed(values, made))]
    assert len(told) == 1 and "the tokenizer cannot be read" in told[0]


def test_what_a_student_was_trained_under_is_told_as_a_recipe_has_it(made):
    values = folders.values(made)
    values["distill"]["model"]["encoders"] = {"picture": {"hf": f"{made}/vit"}}
    assert "data.modalities.picture.mean: [0.5, 0.5, 0.5]" in [x.todo for x in brought_faults(parsed(values, made))]


def test_check_tells_a_student_of_another_tokenizer(made, tmp_path):
    values = folders.values(made)
    values["distill"]["model"]["encoders"] = {"name": {"hf": f"{made}/bert"}}
    values["teacher"]["export"] = False
    told = faults(values, made, tmp_path)
    assert any("the tokenizer has" in what for what in told)
    assert any("encoders.name was trained under tokenizer_file" in what for what in told)


@pytest.mark.slow
def test_the_artifact_is_rebuilt_without_the_folder(ran, made):
    meta = read(ran / "teacher").meta
    assert meta["model"]["encoders"]["name"]["config"]["model_type"] == "bert"
    assert str(made) not in json.dumps(meta)
    from mmedge.measure.quality import module_run
    from mmedge.models import load

    again = load.rebuild(read(ran / "teacher"))
    assert module_run(again) and sum(p.numel() for p in again.parameters()) == meta["params"]
    assert meta["verification"]  # its graph gives what it does in torch, with every modality withheld


def test_other_weights_in_the_folder_are_another_key(made, tmp_path):
    from mmedge.pipeline.keys import _weights

    section = parsed(folders.values(made), made).teacher
    before = _weights(section)
    (made / "bert" / "note.txt").write_text("x")
    assert len(before) == 2 and _weights(section) != before
    (made / "bert" / "note.txt").unlink()


def test_a_student_for_a_budget_is_proposed_once_and_then_as_if_it_stood_in_the_recipe(made, tmp_path):
    from mmedge.contract import Contract
    from mmedge.pipeline.proposing import with_student

    values = folders.values(made)
    values["distill"] = {"budget": {"params": 9000}}
    found = parsed(values, made)
    heads = {"logits": {"task": "classification", "labels": ["fruit", "tool"]}}
    whole = Contract(modalities=found.data.modalities, heads=heads)
    first = with_student(found, whole, tmp_path, lambda model: None, Silent())
    assert first.distill.budget is None and first.distill.model.encoders and "proposed" in first.distill.model.proposed
    assert with_student(found, whole, tmp_path, lambda model: 1 / 0, Silent()) == first
    assert recipe.parse(first.resolved(), where=Path("again")).distill == first.distill


@pytest.mark.parametrize("distilled", [True, False])
@pytest.mark.parametrize(
    "sound, told",
    [
        ({"features": "waveform", "sample_rate": 8000}, ["sample_rate 16000, and gets 8000", "standardize True, and gets False"]),
        ({"features": "waveform", "standardize": True}, []),
        ({"sample_rate": 8000}, ["sample_rate 16000, and gets 8000"]),
    ],
)  # fmt: skip
def test_sounds_of_another_rate_than_the_encoder_was_trained_on_are_told(made, tmp_path, distilled, sound, told):
    """Nothing else would: a network of samples takes any."""
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    said = {"sampling_rate": 16000, "do_normalize": True, "feature_size": 1}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    values = folders.values(made)
    values["data"]["modalities"]["sound"] = {"kind": "audio", "column": "sound", **({} if distilled else sound)}
    values["teacher"]["model"]["encoders"] = {"sound": {"hf": str(tmp_path)}}
    if distilled:
        values["teacher"]["preprocessing"] = {"sound": {"kind": "audio", **sound}}
    else:
        del values["distill"]
    found = [fault for fault in brought_faults(parsed(values, made)) if fault.kind == "preprocessing"]
    assert [fault.what.partition("under ")[2] for fault in found] == told
    where = "teacher.preprocessing" if distilled else "data.modalities"
    assert all(fault.todo.startswith(f"{where}.sound.") for fault in found)
