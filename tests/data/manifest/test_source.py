"""Manifests of every format, splits by column, redaction, and datasets of a user's own."""

import json
from pathlib import Path

import numpy as np
import polars
import pytest

from mmedge import recipe as recipes
from mmedge.data.manifest import source
from mmedge.data.manifest.table import read_table
from mmedge.data.store import samples
from mmedge.errors import MmedgeError, UsageError
from mmedge.pipeline.check import check
from mmedge.progress import Silent
from tests.data.made import five_kinds, parsed, recipe_values, write_table

REPOSITORY = Path(__file__).parents[3]
ROWS = [["who", "a", "note", "y"], *([f"p{i}", str(i), f"text {i}", "ab"[i % 2]] for i in range(40))]


def data_of(path, **keys):
    data = {"manifest": str(path), "target": "y", "modalities": {"x": {"kind": "tabular", "columns": ["a"]}}, **keys}
    return parsed({"schema": 1, "name": "t", "data": data})


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_manifest_of_any_format_is_the_same_table(tmp_path, ending):
    table = polars.DataFrame({"a": [1.5, None, 3], "b": ["红", None, "x, y"]})
    file = tmp_path / f"m.{ending}"
    match ending:
        case "parquet":
            table.write_parquet(file)
        case "jsonl":
            table.write_ndjson(file)
        case _:
            table.write_csv(file, separator="\t" if ending == "tsv" else ",")
    assert read_table(file).rows() == [("1.5", "红"), (None, None), ("3.0", "x, y")]


def test_a_split_column_without_validation_has_it_drawn_from_training(tmp_path):
    rows = [[*ROWS[0], "part"], *([*row, "test" if i % 4 == 0 else "train"] for i, row in enumerate(ROWS[1:]))]
    table, _ = source.arranged(data_of(write_table(tmp_path / "m.csv", rows), split="part").data, 0)
    counts = dict(table[source.SPLIT].value_counts().iter_rows())
    assert counts["test"] == 10 and 4 <= counts["validation"] <= 7 and sum(counts.values()) == 40


def test_a_fold_is_a_split_of_the_manifest(tmp_path):
    manifest = write_table(tmp_path / "m.csv", ROWS)
    tested = [
        row
        for index in range(4)
        for row, split in source.arranged(data_of(manifest, fold={"k": 4, "index": index}).data, 0)[0]
        .select(source.ROW, source.SPLIT)
        .iter_rows()
        if split == "test"
    ]
    assert sorted(tested) == list(range(1, 41))


def test_a_dropped_or_hashed_column_is_in_no_file_that_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("MMEDGE_REDACT_KEY", "a long secret")
    manifest = write_table(tmp_path / "m.csv", ROWS)
    recipe = data_of(manifest, id="who", redact={"drop": ["note"], "hash": ["who"]})
    dataset = samples.prepare(recipe, tmp_path / "out", code=tmp_path, progress=Silent())
    assert all(len(name) == 16 and set(name) <= set("0123456789abcdef") for name in dataset.train.ids)
    written = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert b"text 1" not in written and b"p17" not in written and b"a long secret" not in written


def test_the_same_key_gives_the_same_hashes_and_another_key_others(tmp_path, monkeypatch):
    manifest = write_table(tmp_path / "m.csv", ROWS)
    recipe = data_of(manifest, id="who", redact={"hash": ["who"]})
    ids = []
    for key in ("one", "one", "two"):
        monkeypatch.setenv("MMEDGE_REDACT_KEY", key)
        ids.append(source.arranged(recipe.data, 0)[0]["id"].to_list())
    assert ids[0] == ids[1] and not set(ids[0]) & set(ids[2])


def test_hashing_without_a_key_and_dropping_what_is_used_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("MMEDGE_REDACT_KEY", raising=False)
    manifest = write_table(tmp_path / "m.csv", ROWS)
    with pytest.raises(MmedgeError, match="MMEDGE_REDACT_KEY"):
        source.arranged(data_of(manifest, redact={"hash": ["who"]}).data, 0)
    with pytest.raises(UsageError, match="is used by this recipe"):
        data_of(manifest, redact={"drop": ["a"]})


def test_no_path_id_or_text_of_a_sample_is_in_the_contract(tmp_path):
    """The contract is what a bundle carries of the data."""
    folder = tmp_path / "five"
    recipe = parsed(recipe_values(five_kinds(folder)))
    dataset = samples.prepare(recipe, tmp_path / "out", code=tmp_path, progress=Silent())
    carried = json.dumps(dataset.contract.model_dump(mode="json", by_alias=True), ensure_ascii=False)
    assert str(folder) not in carried and "person" not in carried and "a yellow flower" not in carried


def test_what_contradicts_itself_in_the_data_section_is_told(tmp_path):
    manifest = write_table(tmp_path / "m.csv", ROWS)
    for keys, said in (
        ({"fold": {"k": 3, "index": 3}}, "must be below 'k'"),
        ({"fold": {"k": 3, "index": 0}, "split": "part"}, "either 'split' or 'fold'"),
        ({"target": "a"}, "also the input"),
        ({"manifest": None, "dataset": "own:build", "split": "part"}, "belongs to a 'manifest'"),
    ):
        with pytest.raises(UsageError, match=said):
            data_of(manifest, **keys)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    recipe = recipes.load(REPOSITORY / "recipes/own_data.yaml")
    out = tmp_path_factory.mktemp("own")
    return recipe, out, samples.prepare(recipe, out, code=REPOSITORY / "recipes", progress=Silent())


def test_the_example_of_a_users_own_dataset_gives_its_own_values(own):
    _, _, dataset = own
    from sklearn.datasets import load_digits

    digits = load_digits()
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (1200, 250, 347)
    spec = dataset.contract.modalities["left"]
    row = int(np.flatnonzero(dataset.test.present[:, 0])[3])
    expected = (digits.images[1450 + row][:, :4] * 15.9).astype(np.uint8).astype(np.float32) / 255
    back = np.asarray(dataset.test.inputs["left"][row, 0]) * spec.std[0] + spec.mean[0]
    np.testing.assert_allclose(back, expected, atol=1e-5)
    assert dataset.contract.heads["logits"].labels[dataset.test.targets["logits"][row]] == str(
        digits.target[1450 + row]
    )
    assert 0.05 < 1 - dataset.train.present[:, :2].mean() < 0.15


def test_the_example_of_a_users_own_network_has_no_fault(own, tmp_path):
    recipe, out, _ = own
    card = check(recipe, out, code=REPOSITORY / "recipes", progress=Silent()).record()
    assert card["faults"] == [] and card["splits"]["train"]["samples"] == 1200


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_table_of_another_separator_is_told_with_its_separator(tmp_path, mark):
    (tmp_path / "m.csv").write_text(f"id{mark}label\n1{mark}a\n")
    with pytest.raises(MmedgeError, match="separated by") as raised:
        read_table(tmp_path / "m.csv")
    assert repr(mark) in str(raised.value) and "commas" in str(raised.value)


def test_a_table_that_is_not_utf_8_is_told_with_what_to_do(tmp_path):
    (tmp_path / "m.csv").write_bytes("id,label\n1,é\n".encode("latin-1"))
    with pytest.raises(MmedgeError, match="save it as UTF-8"):
        read_table(tmp_path / "m.csv")


def test_a_table_of_one_column_is_one(tmp_path):
    (tmp_path / "m.csv").write_text("label\na;b\n")
    assert read_table(tmp_path / "m.csv")["label"].to_list() == ["a;b"]


def test_a_label_is_one_class_however_its_accents_are_composed(tmp_path):
    rows = [["a", "y"], *([str(i), ("caf\u00e9", "cafe\u0301", "tea")[i % 3]] for i in range(60))]
    recipe = data_of(write_table(tmp_path / "m.csv", rows))
    card = check(recipe, tmp_path / "out", code=tmp_path, progress=Silent()).record()
    assert card["labels"] == ["caf\u00e9", "tea"] and card["errors"] == 0, card["faults"]


def test_a_missing_file_says_how_the_one_that_is_there_is_spelled(tmp_path):
    (tmp_path / "Img").mkdir()
    (tmp_path / "Img/A.npy").write_bytes(b"x")
    rows = [["x", "y"], *([f"img\\a.npy{'' if i % 2 else ' '}", "ab"[i % 2]] for i in range(40))]
    values = {"manifest": str(write_table(tmp_path / "m.csv", rows)), "target": "y"}
    recipe = parsed({"schema": 1, "name": "t", "data": values | {"modalities": {"x": {"kind": "array", "shape": [2]}}}})
    card = check(recipe, tmp_path / "out", code=tmp_path, progress=Silent(), media=False).record()
    todos = {fault["todo"].split(":")[0] for fault in card["faults"] if fault["kind"] == "missing-file"}
    assert "write Img/A.npy" in todos
