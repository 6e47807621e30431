"""A recipe is shown without the folders of whoever ran it, and the same user's run still knows them."""

import json
from pathlib import Path

from mmedge import recipe as recipes
from mmedge.recipe import origin
from tests.conftest import parsed, tiny


def test_of_every_path_only_the_name_is_shown(tmp_path):
    values = tiny(tmp_path / "clinic" / "patients.csv")
    values["data"]["align"] = {"s": {"file": str(tmp_path / "clinic/s.csv"), "tolerance": 1}}
    values["teacher"]["model"]["weights"] = str(tmp_path / "clinic/w.safetensors")
    values["distill"]["model"] = {"factory": "own:net", "args": {"table": str(tmp_path / "clinic/t.csv"), "n": [1]}}
    shown = origin.portable(parsed(values))
    assert str(tmp_path) not in json.dumps(shown) and shown["data"]["manifest"] == "patients.csv"
    assert shown["distill"]["model"]["args"] == {"table": "t.csv", "n": [1]}


def test_the_whole_recipe_is_recalled_beside_the_run_and_not_elsewhere(tmp_path):
    recipe = parsed(tiny(tmp_path / "patients.csv"))
    recipes.remember(recipe, tmp_path / "code", tmp_path / "run/.work")
    assert recipes.recall(origin.portable(recipe), tmp_path / "run/.work") == (recipe.resolved(), tmp_path / "code")
    assert recipes.recall(origin.portable(recipe), tmp_path / "away") == (origin.portable(recipe), Path())


def test_no_folder_of_the_user_is_in_report_bundle_or_artifact(finished, media):
    written = [finished.out / "report.json", finished.out / "report.html"]
    for folder in ("bundle", "teacher", "distill", "prune", "quantize", "export-onnxruntime-cpu"):
        written += [file for file in (finished.out / folder).rglob("*") if file.is_file()]
    for file in written:
        content = file.read_bytes()
        assert str(media).encode() not in content and str(finished.out.parent).encode() not in content, file
