"""``mmedge check`` on the command line: exit codes, one JSON document, and places of faults."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from mmedge.cli.main import cli
from tests.data.made import five_kinds, recipe_values


@pytest.fixture
def recipe(tmp_path):
    manifest = five_kinds(tmp_path / "data", 40)
    with (tmp_path / "r.yaml").open("w") as stream:
        YAML().dump(recipe_values(manifest), stream)
    return tmp_path / "r.yaml"


def run(recipe, *more):
    return CliRunner().invoke(
        cli, ["check", str(recipe), "--out", str(recipe.parent / "out"), *more], standalone_mode=False
    )


def test_a_sound_recipe_passes_and_the_card_is_on_stderr(recipe):
    result = run(recipe)
    assert result.return_value == 0 and result.stdout == "" and "samples 28" in result.stderr


def test_errors_fail_with_their_places_and_warnings_do_not(recipe):
    (recipe.parent / "data/s/2.wav").write_bytes(b"RIFF")
    result = run(recipe)
    assert result.return_value == 1
    assert (
        "row 3, column sound" in result.stderr and "do: mend the file" in result.stderr and "1 errors" in result.stderr
    )
    assert run(recipe, "--no-media").return_value == 0


def test_json_is_one_document_with_every_fault(recipe):
    (recipe.parent / "data/s/2.wav").unlink()
    result = run(recipe, "--json")
    card = json.loads(result.stdout)
    assert result.return_value == 1 and card["errors"] == 1 and card["faults"][0]["row"] == 3


def test_an_unknown_key_is_an_invalid_recipe(recipe):
    result = run(recipe, "--set", "data.tarpet=kind")
    assert result.return_value == 2 and "did you mean 'target'" in result.stderr


def test_faults_of_the_recipe_and_of_the_data_are_told_in_one_go(recipe):
    (recipe.parent / "data/s/2.wav").write_bytes(b"RIFF")
    faulty = (
        "--set",
        "data.tarpet=kind",
        "--set",
        "teacher.train.epochs=many",
        "--set",
        "distill.model.factory=none:net",
    )
    result = run(recipe, *faulty, "--json")
    card = json.loads(result.stdout)
    assert result.return_value == 2 and card["errors"] == 4
    found = {(fault["kind"], fault.get("row")): fault for fault in card["faults"]}
    assert found.keys() >= {("recipe", None), ("unreadable", 3), ("model", None)}
    told = [fault["what"] for fault in card["faults"] if fault["kind"] == "recipe"]
    assert any("did you mean 'target'" in what for what in told) and any("epochs" in what for what in told)


def test_a_recipe_that_is_none_without_its_faulty_keys_ends_with_all_of_them(recipe):
    result = run(recipe, "--set", "data.modalities=7", "--set", "data.tarpet=kind")
    assert result.return_value == 2 and "2 faults" in result.stderr and "tarpet" in result.stderr


LOUD = """
import os, sys
from torch import nn
print("loud: imported")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 2)

    def forward(self, note):
        return self.head(note.float())

def net():
    print("loud: made")
    os.write(1, b"loud: by number\\n")
    return Net()
"""


@pytest.mark.long
def test_json_is_one_document_though_a_users_module_prints(tmp_path):
    (tmp_path / "loud.py").write_text(LOUD)
    rows = [f"{['red', 'blue'][i % 2]} cold warm {i},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "m.csv").write_text("\n".join(["note,label", *rows]))
    (tmp_path / "r.yaml").write_text(
        "schema: 1\nname: loud\ndata:\n  manifest: m.csv\n  modalities: {note: {kind: text, length: 8, vocabulary: 40}}\n"
        "teacher: {model: {factory: loud:net}}\n"
    )
    command = [
        sys.executable,
        "-m",
        "mmedge",
        "check",
        str(tmp_path / "r.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    said = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    card = json.loads(said.stdout)
    assert said.returncode == 0 and card["errors"] == 0, card["faults"]
    for line in ("loud: imported", "loud: made", "loud: by number"):
        assert line in said.stderr


def test_a_files_name_that_is_no_utf8_is_told_in_json(tmp_path):
    (tmp_path / "r.yaml").write_text("schema: 1\n")
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "r\udcff.yaml"), "--json"], standalone_mode=False)
    assert result.return_value == 2 and "\\udcff" in result.stdout
    assert json.loads(result.stdout)["error"]["where"].endswith("r\udcff.yaml")
