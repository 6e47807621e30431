"""``mmedge predict`` and ``mmedge evaluate`` of a table: row by row, broken rows told, figures those of the run's own report."""

import csv
import json
import subprocess
import sys

import pytest

from mmedge import runtime
from mmedge.data.manifest.table import read_table
from tests.conftest import child_environment


@pytest.fixture
def rows(finished, tmp_path):
    """Six rows of the run's test split, with paths that hold wherever the table lies: the last lacks its sound."""
    table = read_table(finished.out / "data" / "test.csv").head(6).to_dicts()
    table[-1]["audio"] = None
    return table


def written(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_table_is_answered_as_its_rows_one_by_one(mmedge, finished, rows, tmp_path):
    said = mmedge("predict", finished.out / "bundle", written(tmp_path / "rows.csv", rows), "--out", tmp_path / "a.csv")
    assert said.code == 0 and said.out == "", said.err
    answers = list(csv.DictReader((tmp_path / "a.csv").open()))
    engine = runtime.load(finished.out / "bundle")
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True), 1):
        alone = engine.predict(image=row["image"], audio=row["audio"])
        assert (answer["row"], answer["id"], answer["label"], answer["error"]) == (
            str(number),
            row["id"],
            alone.label,
            "",
        )
        assert float(answer["probability"]) == pytest.approx(alone.probabilities[alone.label], abs=1e-6)


def test_without_a_file_the_answers_are_csv_on_stdout_and_with_json_one_document(mmedge, finished, rows, tmp_path):
    table = written(tmp_path / "rows.csv", rows)
    plain = mmedge("predict", finished.out / "bundle", table)
    assert plain.code == 0 and len(list(csv.DictReader(plain.out.splitlines()))) == 6
    document = json.loads(mmedge("predict", finished.out / "bundle", table, "--json").out)
    assert document["wrong"] == 0 and len(document["rows"][0]["probabilities"]) == 10
    assert mmedge("predict", finished.out / "bundle", table, "--out", tmp_path / "a.jsonl").code == 0
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert lines == document["rows"]


def test_a_row_that_cannot_be_answered_says_why_and_the_others_go_on(mmedge, finished, rows, tmp_path):
    rows[0]["image"], rows[1]["image"], rows[1]["audio"] = "nowhere.png", None, None
    said = mmedge("predict", finished.out / "bundle", written(tmp_path / "rows.csv", rows), "--out", tmp_path / "a.csv")
    answers = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert said.code == 1 and "2 of 6 rows" in said.err and f"{tmp_path / 'rows.csv'}, row 1" in said.err
    assert "nowhere.png" in answers[0]["error"] and "nothing is present" in answers[1]["error"]
    assert [bool(answer["label"]) for answer in answers] == [False, False, True, True, True, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,audio\nx.png\n", "row 1 has 1 cells"),
        ("a,b\n1,2\n", "none of the bundle's columns"),
        ('"image\n', "cannot be read"),
        ("", "it is empty"),
        ("image,image\na,b\n", "two columns are called 'image'"),
        ("image;audio\na;b\n", "separated by ';'"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_and_nothing_is_written(mmedge, finished, tmp_path, text, said):
    (tmp_path / "rows.csv").write_text(text)
    for verb in (("predict", "--out", tmp_path / "a.csv"), ("evaluate",)):
        told = mmedge(verb[0], finished.out / "bundle", tmp_path / "rows.csv", *verb[1:])
        assert told.code in (1, 2) and said in told.err and not (tmp_path / "a.csv").exists()
    assert mmedge("predict", finished.out / "bundle", tmp_path / "none.csv").code == 1


def test_predicting_a_table_needs_the_base_install_alone(finished, rows, tmp_path):
    code = (
        "import sys\nfrom mmedge.cli.main import main\ntry:\n    main()\nexcept SystemExit as e:\n    assert not e.code\n"
        "print(*sorted({'torch', 'polars', 'onnx', 'sklearn', 'nncf'} & set(sys.modules)), file=sys.stderr)"
    )
    arguments = ("predict", finished.out / "bundle", written(tmp_path / "rows.csv", rows), "--out", tmp_path / "a.csv")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=child_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "", done.stderr


def test_a_bundle_is_as_good_on_the_runs_test_split_as_the_report_says(mmedge, finished):
    said = mmedge("evaluate", finished.out / "bundle", finished.out / "data" / "test.csv", "--json")
    assert said.code == 0, said.err
    found, reported = json.loads(said.out), finished.stage("export-onnxruntime-cpu")
    assert found["rows"] == 60 and found["wrong"] == 0
    for key in ("metric", "value", "n", "groups", "others"):
        assert found["quality"][key] == pytest.approx(reported["quality"][key])
    low, high = found["quality"]["ci95"]
    assert low < found["quality"]["value"] < high
    for name, value in reported["subsets"].items():
        assert found["subsets"][name]["value"] == pytest.approx(value)
        assert found["subsets"][name]["ci95"][0] <= value <= found["subsets"][name]["ci95"][1]
    assert "accuracy" in said.err and "image+audio" in said.err


def test_subsets_are_judged_by_the_rows_that_have_all_of_them_and_unlabelled_rows_by_none(
    mmedge, finished, rows, tmp_path
):
    rows[0]["label"] = None
    said = mmedge("evaluate", finished.out / "bundle", written(tmp_path / "rows.csv", rows), "--json")
    found = json.loads(said.out)
    assert found["quality"]["n"] == 5 and found["subsets"]["image"]["n"] == 5
    assert found["subsets"]["audio"]["n"] == found["subsets"]["image+audio"]["n"] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--truth", "labl"], "did you mean 'label'"),
        (["--truth", "mood=label"], "has no head 'mood'"),
        (["--group", "groop"], "did you mean 'group'"),
        (["--truth", "group"], "does not know"),
    ],
)
def test_a_wrong_column_is_told(mmedge, finished, rows, tmp_path, arguments, said):
    told = mmedge("evaluate", finished.out / "bundle", written(tmp_path / "rows.csv", rows), *arguments)
    assert told.code in (1, 2) and said in told.err
