"""What training computed and what the runtime computes on the device are the same, bit for bit, for every kind."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmedge import preprocess
from mmedge.data.builtin import voices
from mmedge.data.manifest.table import read_table
from mmedge.data.store import samples, tensors
from mmedge.pipeline.check import check
from mmedge.progress import Silent
from tests.data.made import MODALITIES, five_kinds, parsed, recipe_values, write_table

_ON_THE_DEVICE = """
import json, sys
import numpy as np
from mmedge import preprocess
from mmedge.contract import Contract
work = json.load(open(sys.argv[1], encoding="utf-8"))
contract = Contract.model_validate(work["contract"])
out = {}
for name, spec in contract.modalities.items():
    for row, value in work["values"][name].items():
        if isinstance(value, list):  # a path or a text, or the path of a picture and the box of its region
            value = (value[0], tuple(value[1:])) if any(value[1:]) else value[0]
        out[f"{name}/{row}"] = preprocess.tensor(spec, value, name)
assert not {"torch", "polars", "click", "onnx", "nncf"} & set(sys.modules), sorted(sys.modules)
np.savez(sys.argv[2], **out)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("five")
    recipe = parsed(recipe_values(five_kinds(folder)))
    return folder, samples.prepare(recipe, folder / "out", code=folder, progress=Silent())


def same_in_a_process_without_torch(folder, dataset):
    """Assert that the runtime alone computes every sample's arrays from its cells as training did, bit for bit."""
    modalities = dataset.contract.modalities
    values: dict = {name: {} for name in modalities}
    rows: dict = {}
    for split in (dataset.train, dataset.validation, dataset.test):
        table = read_table(folder / "out" / "data" / f"{split.split}.csv")
        for index, cells in enumerate(table.iter_rows(named=True)):
            key = f"{split.split}-{index}"
            rows[key] = (split, index)
            for column, (name, spec) in enumerate(modalities.items()):
                if split.present[index, column]:
                    read = {c: cells[c] for c in spec.columns_read or (name,)}
                    values[name][key] = read if spec.kind == "tabular" else list(read.values())
    work = {"contract": dataset.contract.model_dump(mode="json", by_alias=True), "values": values}
    (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-c", _ON_THE_DEVICE, str(folder / "work.json"), str(folder / "out.npz")],
        check=True,
        timeout=120,
    )
    answers = np.load(folder / "out.npz")
    assert all(any(name.startswith(f"{modality}/") for name in answers.files) for modality in modalities)
    for name in answers.files:
        modality, _, key = name.partition("/")
        split, index = rows[key]
        assert answers[name].dtype == split.inputs[modality].dtype
        np.testing.assert_array_equal(answers[name], split.inputs[modality][index], err_msg=name)


def test_every_kind_is_the_same_bit_for_bit_in_a_process_without_torch(prepared):
    same_in_a_process_without_torch(*prepared)


CHINESE = ("学而时习之，不亦说乎？", "有朋自远方来，不亦乐乎？", "温故而知新，可以为师矣。", "三人行，必有我师焉。")
BOX = ("left", "top", "width", "height")
REAL = {
    "region": {
        "kind": "image",
        "column": "photo",
        "box": ["left", "top", "+width", "+height"],
        "height": 12,
        "width": 20,
    },
    "gray": {"kind": "image", "column": "photo", "height": 16, "width": 16, "channels": 1, "crop": "center"},
    "voice": {"kind": "audio", "sample_rate": 16000, "features": "mfcc", "mels": 32, "frames": 40, "take": "center"},
    "caption": {"kind": "text", "length": 16, "tokenizer": "wordpiece", "vocabulary": 500},
    "again": {"kind": "text", "column": "caption", "length": 16, "tokenizer": "unigram", "vocabulary": 300},
    "facts": {"kind": "tabular", "columns": ["width"], "categorical": ["exercise"], "encoding": "ordinal"},
    "wrist": {
        "kind": "sensor",
        "channels": 2,
        "length": 60,
        "rate": 20,
        "time_column": "time",
        "channel_columns": ["ax", "gz"],
    },
    "turn": {"kind": "sensor", "channels": 3, "length": 50, "source_rate": 50, "rate": 30},
    "pixels": {"kind": "array", "shape": [8, 8]},
}


def real_files(folder, rows=40):
    """A manifest of what people and cameras made: photographs and boxes in them, speech, sentences, a watch's series, digits."""
    import sklearn.datasets as given

    places = Path(given.__file__).parent
    watch = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "watch.py"))["recordings"]()
    spoken = voices_of_speech(rows)
    english = [
        s
        for f in sorted((places / "descr").glob("*.rst"))
        for s in f.read_text("utf-8").split(". ")
        if 20 < len(s) < 200
    ]
    digits, rng = given.load_digits(), np.random.default_rng(0)
    header = ["photo", *BOX, "voice", "caption", "exercise", "wrist", "turn", "pixels", "kind"]
    table = [header]
    for row in range(rows):
        series = watch["X"][row * 3][:200]  # [time, 6] at 50 Hz
        soundfile.write(folder / f"{row}.wav", spoken[row].samples, voices.RATE)
        np.save(folder / f"turn-{row}.npy", np.ascontiguousarray(series[:, 3:].T, np.float32))
        np.save(folder / f"pixels-{row}.npy", digits.images[row].astype(np.float32))
        timed = [["time", "ax", "ay", "gz"], *([n / 50, *series[n, [0, 1, 5]].tolist()] for n in range(len(series)))]
        write_table(folder / f"wrist-{row}.csv", timed)
        box = [
            int(rng.integers(0, 500)),
            int(rng.integers(0, 300)),
            int(rng.integers(20, 130)),
            int(rng.integers(20, 120)),
        ]
        box = box if row % 5 else [""] * 4  # without a box, the whole picture
        text = CHINESE[row // 2 % 4] if row % 2 else " ".join(english[row].split())
        photo = places / "images" / ("china.jpg", "flower.jpg")[row // 2 % 2]
        exercise = watch["y_labels"][int(watch["y"][row * 3])]
        cells = [photo, *box, f"{row}.wav", text, exercise, f"wrist-{row}.csv", f"turn-{row}.npy", f"pixels-{row}.npy"]
        table.append([*cells, ("china", "flower")[row // 2 % 2]])
    return write_table(folder / "manifest.csv", table)


def voices_of_speech(count):
    """Spoken digits: recordings where a folder of them is named, else synthetic voices."""
    folder = os.environ.get("MMEDGE_RECORDINGS")
    if folder:
        return voices.load_recordings(Path(folder))[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voices, "_SYNTHETIC", {"train": count, "validation": 10, "test": 10})
        return voices.synthesize_recordings(0, lambda *_: None)[:count]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    values = recipe_values(real_files(folder), modalities=REAL)
    recipe = parsed(values | {"teacher": {}, "distill": None})
    return folder, samples.prepare(recipe, folder / "out", code=folder, progress=Silent())


def test_boxes_mfcc_every_tokenizer_resampled_series_and_arrays_of_real_files_are_the_same_bit_for_bit(real):
    same_in_a_process_without_torch(*real)


def test_a_region_of_a_picture_is_joined_with_the_text_of_its_own_row(real):
    folder, dataset = real
    table = read_table(folder / "out" / "data" / "train.csv")
    specs = dataset.contract.modalities
    bare = specs["region"].model_copy(update={"box": None})
    for index, cells in enumerate(table.iter_rows(named=True)):
        with Image.open(cells["photo"]) as photo:
            edges = [int(cells[name]) if cells[name] else None for name in BOX]
            left, top, width, height = edges if edges[0] is not None else (0, 0, *photo.size)
            region = np.asarray(photo.convert("RGB").crop((left, top, left + width, top + height)))
        np.testing.assert_array_equal(dataset.train.inputs["region"][index], preprocess.tensor(bare, region))
        np.testing.assert_array_equal(
            dataset.train.inputs["caption"][index], preprocess.tensor(specs["caption"], cells["caption"])
        )
    assert len(np.unique(np.asarray(dataset.train.inputs["region"]), axis=0)) > 20


@pytest.mark.parametrize("tokenizer", ["wordpiece", "unigram", "bpe"])
def test_words_and_categories_of_other_splits_are_in_no_vocabulary(tmp_path, tokenizer):
    header = ["text", "colour", "size", "part", "kind"]
    parts = ["train"] * 12 + ["validation"] * 6 + ["test"] * 6
    strange = {
        "train": ("common words", "red", 1),
        "validation": ("qqqq龘龘 " * 3, "violet", 1000),
        "test": ("zzzz靐靐 " * 3, "pink", 5000),
    }
    rows = [
        [f"{strange[part][0]} {row % 4}", strange[part][1], strange[part][2] + row % 3, part, row % 2]
        for row, part in enumerate(parts)
    ]
    modalities = {
        "text": {"kind": "text", "length": 12, "tokenizer": tokenizer, "vocabulary": 400},
        "facts": {"kind": "tabular", "columns": ["size"], "categorical": ["colour"]},
    }
    values = recipe_values(write_table(tmp_path / "m.csv", [header, *rows]), split="part", modalities=modalities)
    recipe = parsed(values | {"teacher": {}, "distill": None})
    contract = samples.prepare(recipe, tmp_path / "out", code=tmp_path, progress=Silent()).contract
    assert contract.modalities["facts"].categories == {"colour": ("red",)}
    np.testing.assert_allclose(contract.modalities["facts"].mean, [2.0])
    model = json.loads(contract.modalities["text"].fitted)["model"]
    known = [word if isinstance(word, str) else word[0] for word in model["vocab"]]
    assert any("o" in word for word in known), known
    assert not [word for word in known if "qq" in word or "zz" in word or "龘" in word or "靐" in word]


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


@pytest.mark.long
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
    first = check(recipe, tmp_path / "a", code=tmp_path, progress=Silent()).record()
    fresh = samples.prepare(recipe, tmp_path / "b", code=tmp_path, progress=Silent())
    monkeypatch.setattr(tensors, "decode", None)
    after = samples.prepare(recipe, tmp_path / "a", code=tmp_path, progress=Silent())
    assert after.sha256 == fresh.sha256
    for name in MODALITIES:
        np.testing.assert_array_equal(after.train.inputs[name], fresh.train.inputs[name])
    assert check(recipe, tmp_path / "a", code=tmp_path, progress=Silent()).record() == first


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
