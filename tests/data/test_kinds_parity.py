"""What training computed and what the runtime computes on the device are the same, bit for bit, for every kind."""

import json
import subprocess
import sys

import numpy as np
import pytest

from mmedge.check import check
from mmedge.data import samples, tensors
from mmedge.data.table import read_table
from mmedge.progress import Silent
from tests.data.made import MODALITIES, five_kinds, parsed, recipe_values

_ON_THE_DEVICE = """
import json, sys
import numpy as np
from mmedge.runtime import preprocess
from mmedge.spec import Contract
work = json.load(open(sys.argv[1], encoding="utf-8"))
contract = Contract.model_validate(work["contract"])
out = {}
for name, spec in contract.modalities.items():
    for row, value in work["values"][name].items():
        out[f"{name}/{row}"] = preprocess.tensor(spec, value, name)
assert not {"torch", "polars", "click", "onnx", "nncf"} & set(sys.modules), sorted(sys.modules)
np.savez(sys.argv[2], **out)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("five")
    recipe = parsed(recipe_values(five_kinds(folder)))
    return folder, samples.prepare(recipe, folder / "out", code=folder, progress=Silent())


def test_every_kind_is_the_same_bit_for_bit_in_a_process_without_torch(prepared):
    folder, dataset = prepared
    values: dict = {name: {} for name in MODALITIES}
    rows: dict = {}
    for split in (dataset.train, dataset.validation, dataset.test):
        table = read_table(folder / "out" / "data" / f"{split.split}.csv")
        for index, cells in enumerate(table.iter_rows(named=True)):
            key = f"{split.split}-{index}"
            rows[key] = (split, index)
            for column, name in enumerate(MODALITIES):
                if split.present[index, column]:
                    cell = {c: cells[c] for c in ("weight", "height", "colour")} if name == "facts" else cells[name]
                    values[name][key] = cell
    work = {"contract": dataset.contract.model_dump(mode="json", by_alias=True), "values": values}
    (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-c", _ON_THE_DEVICE, str(folder / "work.json"), str(folder / "out.npz")],
        check=True,
        timeout=120,
    )
    answers = np.load(folder / "out.npz")
    assert all(any(name.startswith(f"{modality}/") for name in answers.files) for modality in MODALITIES)
    for name in answers.files:
        modality, _, key = name.partition("/")
        split, index = rows[key]
        assert answers[name].dtype == split.inputs[modality].dtype
        np.testing.assert_array_equal(answers[name], split.inputs[modality][index], err_msg=name)


def test_a_hole_is_a_missing_modality_and_a_table_is_missing_only_where_all_its_cells_are(prepared):
    folder, dataset = prepared
    table = read_table(folder / "out" / "data" / "train.csv")
    present = dict(zip(MODALITIES, dataset.train.present.T))
    for name in ("picture", "sound", "words", "motion"):
        np.testing.assert_array_equal(present[name], table[name].is_not_null().to_numpy())
        assert not present[name].all() and not np.asarray(dataset.train.inputs[name])[~present[name]].any()
    assert table["weight"].null_count() and present["facts"].all()


def test_no_row_is_dropped_and_statistics_come_from_the_training_split_alone(prepared):
    _, dataset = prepared
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 60
    there = dataset.train.present[:, list(MODALITIES).index("motion")]
    x = np.asarray(dataset.train.inputs["motion"])[there]
    np.testing.assert_allclose(x.mean(axis=(0, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(axis=(0, 2)), 1, atol=1e-3)


def test_a_missing_number_is_the_training_mean_with_its_flag_set(prepared):
    folder, dataset = prepared
    table = read_table(folder / "out" / "data" / "train.csv")
    rows = table["weight"].is_null().to_numpy()
    facts = np.asarray(dataset.train.inputs["facts"])
    assert rows.any() and (facts[rows, 0] == 0).all() and (facts[rows, 2] == 1).all() and not facts[~rows, 2].any()


def test_caches_are_private_to_the_user(prepared):
    folder, _ = prepared
    for name in ("data", ".work"):
        assert (folder / "out" / name).stat().st_mode & 0o077 == 0


def test_the_same_data_is_not_decoded_twice_and_workers_change_nothing(tmp_path, monkeypatch):
    manifest = five_kinds(tmp_path, 160)
    alone = samples.prepare(
        parsed(recipe_values(manifest, workers=1)), tmp_path / "a", code=tmp_path, progress=Silent()
    )
    two = samples.prepare(parsed(recipe_values(manifest, workers=2)), tmp_path / "b", code=tmp_path, progress=Silent())
    for name in MODALITIES:
        np.testing.assert_array_equal(alone.train.inputs[name], two.train.inputs[name])
    assert alone.sha256 == two.sha256
    monkeypatch.setattr(tensors, "decode", None)  # a second call must not need it
    again = samples.prepare(parsed(recipe_values(manifest)), tmp_path / "a", code=tmp_path, progress=Silent())
    np.testing.assert_array_equal(again.test.inputs["words"], alone.test.inputs["words"])


def test_what_check_decoded_is_not_decoded_again_by_a_run_nor_by_a_second_check(tmp_path, monkeypatch):
    recipe = parsed(recipe_values(five_kinds(tmp_path)))
    first = check(recipe, tmp_path / "a", code=tmp_path, progress=Silent())
    fresh = samples.prepare(recipe, tmp_path / "b", code=tmp_path, progress=Silent())
    monkeypatch.setattr(tensors, "decode", None)
    after = samples.prepare(recipe, tmp_path / "a", code=tmp_path, progress=Silent())
    assert after.sha256 == fresh.sha256
    for name in MODALITIES:
        np.testing.assert_array_equal(after.train.inputs[name], fresh.train.inputs[name])
    assert check(recipe, tmp_path / "a", code=tmp_path, progress=Silent()) == first


def test_what_was_cached_before_a_column_was_redacted_is_deleted(tmp_path):
    manifest = five_kinds(tmp_path)
    samples.prepare(parsed(recipe_values(manifest)), tmp_path / "out", code=tmp_path, progress=Silent())
    fewer = {name: spec for name, spec in MODALITIES.items() if name != "words"}
    values = recipe_values(manifest, modalities=fewer, redact={"drop": ["words"]})
    recipe = parsed(values | {"teacher": {}, "distill": None})
    samples.prepare(recipe, tmp_path / "out", code=tmp_path, progress=Silent())
    kept = [place.name.partition("-")[0] for place in (tmp_path / "out/.work/tensors").iterdir()]
    assert sorted(kept) == sorted(fewer)
    left = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert b"a temple under" not in left


def test_arrays_of_other_preprocessing_code_are_not_taken_again_whatever_the_spec(tmp_path, monkeypatch):
    recipe = parsed(recipe_values(five_kinds(tmp_path, 24)))
    dataset = samples.prepare(recipe, tmp_path / "out", code=tmp_path, progress=Silent())
    spec = dataset.contract.modalities["motion"]
    tables = {split: read_table(tmp_path / f"out/data/{split}.csv") for split in ("train", "validation", "test")}
    asked = ("motion", spec, tables, tmp_path / "out/data", tmp_path / "out/.work/tensors", None, Silent())
    first = tensors.decoded(*asked)
    assert tensors.decoded(*asked).folder == first.folder and (first.folder / "spec.json").is_file()
    monkeypatch.setattr(tensors, "code_hash", lambda *names: "changed")
    changed = tensors.decoded(*asked)
    assert changed.folder != first.folder and changed.key != first.key


def test_the_hash_of_a_dataset_does_not_depend_on_what_is_in_the_cache(tmp_path):
    manifest = five_kinds(tmp_path, 24)
    first = samples.prepare(parsed(recipe_values(manifest)), tmp_path / "a", code=tmp_path, progress=Silent())
    given = {name: spec.model_dump(mode="json", by_alias=True) for name, spec in first.contract.modalities.items()}
    given = parsed(recipe_values(manifest, modalities=given))
    hashes = [samples.prepare(given, tmp_path / place, code=tmp_path, progress=Silent()).sha256 for place in "ab"]
    assert hashes[0] == hashes[1]
