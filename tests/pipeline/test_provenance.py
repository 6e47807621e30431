"""What a run was made by stands in its report, and the report repeats the run."""

import json
import re
from importlib import metadata

import pytest

from mmedge.pipeline.provenance import provenance, without_folder


def test_a_report_says_the_versions_the_sources_and_the_data_card(finished):
    found, data = finished.report["provenance"], finished.report["data"]
    assert found["versions"]["torch"] == metadata.version("torch") and "command" not in found  # Python called
    assert re.fullmatch("[0-9a-f]{64}", found["code_sha256"])
    assert {split: card["samples"] for split, card in data["splits"].items()} == {
        split: data[split] for split in ("train", "validation", "test")
    }
    assert data["splits"]["train"]["present"] == {"image": 240, "audio": 240}
    assert sum(data["splits"]["test"]["classes"].values()) == 60


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("/home/me/clinic/r.yaml", "r.yaml"),
        ("--out=/home/me/x", "--out=x"),
        ("data.manifest=~/secret/m.csv", "data.manifest=m.csv"),
        ("recipes/r.yaml", "recipes/r.yaml"),
        ("teacher.train.epochs=5", "teacher.train.epochs=5"),
    ],
)
def test_a_command_names_no_folder_of_the_user(typed, said):
    assert without_folder(typed) == said
    assert provenance(["mmedge", "run", typed]).command == f"mmedge run {said}"


@pytest.mark.long
def test_a_report_repeats_its_run(finished, mmedge, tmp_path):
    """Into a copy, where nothing is left to compute: the recipe is the very same, folders and all."""
    out = finished.whole_copy(tmp_path / "out")
    said = mmedge("run", finished.out / "report.json", "--out", out, "--json")
    assert said.code == 0, said.err
    again = json.loads(said.out)
    assert {stage["status"] for stage in again["stages"]} == {"cached"}
    assert again["recipe"] == finished.report["recipe"] and again["data"] == finished.report["data"]
    assert "it has the data of the report" in said.err
    assert again["provenance"]["command"].startswith("mmedge run report.json --out out")


def test_a_report_that_was_carried_away_says_which_file_is_missing(finished, mmedge, tmp_path):
    (tmp_path / "report.json").write_text((finished.out / "report.json").read_text())
    said = mmedge("run", tmp_path / "report.json", "--out", tmp_path / "out")
    assert said.code != 0 and "manifest.csv" in said.err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r | {"schema": 2}, "not a report that mmedge reads"),
        (lambda r: {k: v for k, v in r.items() if k != "stages"}, "not a report that mmedge reads"),
        (lambda r: r | {"seed": "x"}, "seed"),
    ],
)
def test_a_report_of_another_version_or_damaged_is_told(finished, mmedge, tmp_path, change, expected):
    file = tmp_path / "report.json"
    file.write_text(json.dumps(change(finished.report)))
    said = mmedge("run", file, "--out", tmp_path / "out")
    assert said.code in (1, 2) and expected in said.err and not (tmp_path / "out").exists()
