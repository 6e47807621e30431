"""``mmedge init``: what it sees in a manifest, and that what it writes is a recipe that runs as it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mmedge import recipe as recipes
from mmedge.cli.main import cli
from mmedge.data.wizard.propose import Wishes, propose
from mmedge.errors import UsageError
from mmedge.pipeline.check import check
from mmedge.progress import Silent
from mmedge.spec import TabularSpec
from tests.data.made import five_kinds, write_table

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return five_kinds(tmp_path_factory.mktemp("five"))


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)


def test_every_column_is_seen_for_what_it_is(manifest):
    proposal = propose(manifest)
    roles = {column.name: column.role for column in proposal.columns}
    assert roles == {
        "picture": "image",
        "sound": "audio",
        "words": "text",
        "weight": "number",
        "height": "number",
        "colour": "category",
        "motion": "sensor",
        "who": "group",
        "kind": "target",
    }
    assert (proposal.task, proposal.target, proposal.group, proposal.rows) == ("classification", "kind", "who", 60)
    assert proposal.modalities["sound"].sample_rate == 8000 and proposal.modalities["motion"].channels == 2


def test_the_recipe_has_no_fault_and_keeps_every_row(manifest, tmp_path):
    result = run("init", manifest, "--out", tmp_path / "my.yaml")
    assert result.return_value == 0, result.output
    assert (tmp_path / "my.yaml").read_text().startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert json.loads((tmp_path / "recipe.schema.json").read_text())["title"] == "mmedge recipe"
    recipe = recipes.load(tmp_path / "my.yaml")
    assert recipe.stages == ["teacher", "distill", "prune", "quantize", "export-onnxruntime-cpu"]
    card = check(recipe, tmp_path / "out", code=tmp_path, progress=Silent()).record()
    assert card["errors"] == 0, card["faults"]
    assert sum(split["samples"] for split in card["splits"].values()) == 60


@pytest.mark.long
def test_the_module_it_writes_has_no_trap(manifest, tmp_path):
    assert run("init", manifest, "--out", tmp_path / "own-task.yaml", "--code").return_value == 0
    overrides = ("teacher.model.factory=own_task_code:teacher", "distill.model.factory=own_task_code:student")
    recipe = recipes.load(tmp_path / "own-task.yaml", overrides)
    card = check(recipe, tmp_path / "out", code=tmp_path, progress=Silent(), media=True).record()
    assert card["errors"] == 0, card["faults"]


def test_budgets_are_what_the_validation_samples_can_tell_and_fixed_for_regression(manifest, tmp_path):
    for target, told in (("kind", 1 / 3), ("weight", 0.02)):  # 9 of 60 rows validate
        assert run("init", manifest, "--target", target, "--out", tmp_path / f"{target}.yaml").return_value == 0
        recipe = recipes.load(tmp_path / f"{target}.yaml")
        for section in (recipe.prune, recipe.quantize):
            assert (section.max_drop, section.max_subset_drop) == pytest.approx((told, 2 * told), rel=0.05)
            assert section.on_miss != "stop"
        # What init wrote is a wish: nothing is demanded, neither of sizes nor of a precision, that would end a run.
        assert recipe.prune.macs is None and not recipe.prune.budget.model_dump(exclude_none=True)
        assert recipe.quantize.require is None and not recipe.export.asks_int8


def test_names_in_chinese_and_with_blanks_are_kept(tmp_path):
    rows = [["编号", "身高 cm", "描述", "类别"]]
    rows += [[f"n{i}", 150 + i * 7 % 40, f"第{i}个红色的花和绿色的叶子", "甲乙"[i % 2]] for i in range(60)]
    write_table(tmp_path / "数据.csv", rows)
    assert run("init", tmp_path / "数据.csv", "--out", tmp_path / "任务.yaml").return_value == 0
    recipe = recipes.load(tmp_path / "任务.yaml")
    assert (recipe.data.target, recipe.data.id) == ("类别", "编号")
    assert {spec.kind: spec.columns_read for spec in recipe.data.modalities.values()} == {
        "text": ("描述",),
        "tabular": ("身高 cm",),
    }
    assert check(recipe, tmp_path / "out", code=tmp_path, progress=Silent()).record()["errors"] == 0


def test_numbers_with_many_values_are_a_regression(tmp_path):
    write_table(tmp_path / "m.csv", [["a", "price"], *([i * i % 13, i * 1.5] for i in range(50))])
    proposal = propose(tmp_path / "m.csv")
    assert (proposal.task, proposal.target) == ("regression", "price")


def test_a_split_column_is_used_and_a_constant_one_is_not(tmp_path):
    rows = [["a", "b", "part", "y"]]
    rows += [[i * i % 11, 5, ("train", "val", "test")[i % 3], "uv"[i % 2]] for i in range(60)]
    proposal = propose(write_table(tmp_path / "m.csv", rows), Wishes("y"))
    assert proposal.split == "part" and proposal.modalities == {"tabular": TabularSpec(kind="tabular", columns=("a",))}


@pytest.mark.parametrize(
    "rows, target, said",
    [
        ([["a", "y"], ["1", "u"], ["2", "v"]], "z", "no column 'z'"),
        ([["a", "y"], ["1", "u"], ["2", "u"]], "y", "1 different values"),
        ([["name", "word"], *([f"x{i}", f"w{i}"] for i in range(30))], None, "no column looks like a target"),
        ([["y"], *(["uv"[i % 2]] for i in range(30))], "y", "no column is one that a model could take"),
    ],
)
def test_what_no_recipe_can_be_made_of_is_told(tmp_path, rows, target, said):
    with pytest.raises(UsageError, match=said):
        propose(write_table(tmp_path / "m.csv", rows), Wishes(target))


def test_a_file_that_is_there_is_not_replaced_unless_asked(manifest, tmp_path):
    (tmp_path / "my.yaml").write_text("mine")
    assert run("init", manifest, "--out", tmp_path / "my.yaml").return_value == 2
    assert (tmp_path / "my.yaml").read_text() == "mine"
    assert run("init", manifest, "--out", tmp_path / "my.yaml", "--force").return_value == 0


@pytest.mark.slow
def test_a_fresh_manifest_of_five_kinds_with_holes_goes_all_the_way_with_no_edit(tmp_path):
    """init, check and run as a user types them, then a prediction from raw values by the bundle."""
    manifest = five_kinds(tmp_path / "data", 120)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

    def mmedge(*arguments):
        command = [sys.executable, "-m", "mmedge", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    mmedge("init", manifest, "--out", "my.yaml")
    mmedge("check", "my.yaml", "--out", "runs/my")
    report = json.loads(mmedge("run", "my.yaml", "--out", "runs/my", "--json"))
    assert report["verdict"] == "pass" and [stage["status"] for stage in report["stages"]] == ["ran"] * 5
    assert report["stages"][-1]["quality"]["value"] > 0.8
    assert sum(report["data"][split] for split in ("train", "validation", "test")) == 120
    engine = "import mmedge.runtime, json; e = mmedge.runtime.load('runs/my/bundle'); " + (
        "print(json.dumps([e.predict(words='a yellow flower 花').record(), e.predict(picture='data/p/1.png', "
        "tabular={'weight': None, 'height': 5, 'colour': 'mauve'}).record()]))"
    )
    done = subprocess.run([sys.executable, "-c", engine], cwd=tmp_path, env=environment, capture_output=True, text=True)
    answers = json.loads(done.stdout)
    assert all(set(answer["probabilities"]) == {"temple", "flower"} for answer in answers)
    assert all(np.isfinite(list(answer["probabilities"].values())).all() for answer in answers)


@pytest.mark.parametrize("splits", [[], ["training", "val", "Test"]])
def test_a_folder_of_class_folders_becomes_a_table_and_a_recipe(tmp_path, splits):
    for place, split in enumerate(splits or ["."]):
        for number in range(40):
            folder = tmp_path / "data" / split / ("cat", "dog")[number % 2] / ("", "inner")[number % 4 == 0]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.full((20, 20, 3), number + 40 * place, np.uint8)
            pixels[:, :10] = 200 * (number % 2)
            Image.fromarray(pixels).save(folder / f"{split.strip('.')}{number}.png")
    (tmp_path / "data/.hidden").mkdir()
    (tmp_path / "data/readme.txt").write_text("x")
    assert run("init", tmp_path / "data", "--out", tmp_path / "r" / "my.yaml").return_value == 0
    recipe = recipes.load(tmp_path / "r/my.yaml")
    assert recipe.data.split == ("split" if splits else None) and recipe.data.modalities["image"].kind == "image"
    card = check(recipe, tmp_path / "out", code=tmp_path, progress=Silent()).record()
    assert card["errors"] == 0 and card["labels"] == ["cat", "dog"], card["faults"]
    assert sum(split["samples"] for split in card["splits"].values()) == 40 * max(1, len(splits))


def test_a_folder_without_class_folders_is_told(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.png").write_bytes(b"x")
    result = run("init", tmp_path, "--out", tmp_path / "my.yaml")
    assert result.return_value == 2 and "no class folders" in result.stderr and not (tmp_path / "my.csv").exists()


def test_a_task_that_is_misspelt_is_told_with_the_one_that_was_meant(manifest, tmp_path):
    result = run("init", manifest, "--task", "regresion", "--out", tmp_path / "my.yaml")
    assert result.return_value == 2 and "did you mean 'regression'" in result.stderr


def test_a_table_of_a_thousand_columns_is_told_in_some_lines_and_one_of_too_many_at_once(tmp_path):
    def wide(count):
        rows = [[f"{(r * i + r) % 97 / 7:.2f}" for i in range(count)] + ["ab"[r % 2]] for r in range(40)]
        return write_table(tmp_path / f"{count}.csv", [[*(f"c{i}" for i in range(count)), "label"], *rows])

    result = run("init", wide(1000), "--out", tmp_path / "my.yaml")
    assert result.return_value == 0 and len(result.stderr) < 6000 and "more columns: 930 number" in result.stderr
    assert len(recipes.load(tmp_path / "my.yaml").data.modalities["tabular"].columns) > 900
    (tmp_path / "huge.csv").write_text(",".join(f"c{i}" for i in range(50_000)) + "\n" + ",".join("1" * 50_000) + "\n")
    result = run("init", tmp_path / "huge.csv", "--out", tmp_path / "no.yaml")
    assert result.return_value == 1 and "50000 columns" in result.stderr and ".npy" in result.stderr
