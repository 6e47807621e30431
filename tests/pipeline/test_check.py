"""``check``: every fault of the list, on real broken files, each with its place; and all of them in one go."""

import csv
import shutil

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmedge.data.store import room
from tests.data.made import COLUMNS, MODALITIES, five_kinds, recipe_values
from tests.looked import look, of


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return five_kinds(folder), folder


@pytest.fixture
def task(whole, tmp_path):
    """A copy of the whole task that a test may break: (manifest, rows as lists)."""
    shutil.copytree(whole[1], tmp_path / "t")
    with (tmp_path / "t/manifest.csv").open(encoding="utf-8", newline="") as stream:
        return tmp_path / "t/manifest.csv", list(csv.reader(stream))[1:]


def at(rows, column, row):
    """The first row from ``row`` on whose cell is filled: (index, cell)."""
    place = COLUMNS.index(column)
    return next((index, rows[index][place]) for index in range(row, len(rows)) if rows[index][place])


def test_a_sound_task_has_no_error_and_a_card_with_counts_classes_presence_and_shapes(whole):
    card = look(whole[0])
    assert card["errors"] == 0, card["faults"]
    assert sum(split["samples"] for split in card["splits"].values()) == 60
    train = card["splits"]["train"]
    assert train["classes"] == {"flower": 21, "temple": 21} and train["present"]["picture"] < train["samples"] == 42
    assert card["modalities"]["picture"] == [3, 16, 16] and card["modalities"]["facts"] == [8]
    assert card["media"]["sound"]["sample_rates"] == {
        "8000": sum(s["present"]["sound"] for s in card["splits"].values())
    }


def test_check_says_what_the_store_takes_and_refuses_a_disk_without_room(whole, monkeypatch):
    card = look(whole[0], media=False)
    assert card["store"]["picture"] == 60 * 3 * 16 * 16 and set(card["store"]) == set(card["modalities"])
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    # Other pictures' sizes: whichever test looked first may have left these decoded, which counts as room.
    larger = {**MODALITIES, "picture": {"kind": "image", "height": 64, "width": 64}}
    monkeypatch.setattr("mmedge.pipeline.check._LARGE", 60 * 3 * 64 * 64)  # what would take as much as this takes much
    card = look(whole[0], modalities=larger)
    files = list(whole[1].glob("**/*.png"))
    of_files = card["files"]["picture"]
    assert 0.5 < of_files["bytes"] / sum(file.stat().st_size for file in files) < 2 and 0 < of_files["decode_ms"] < 1000
    (fault,) = of(card, "disk")
    assert "has 1.0 kB free" in fault["what"] and "larger disk" in fault["todo"]


def test_an_empty_folder_of_noises_is_an_error_before_anything_is_trained(whole, tmp_path):
    noisy = {"teacher": {"train": {"augment": {"sound": {"snr": [5, 20], "noise_folder": str(tmp_path)}}}}}
    (fault,) = of(look(whole[0], media=False, model=noisy), "noise")
    assert fault["severity"] == "error" and "holds no sounds" in fault["what"] and "augment.sound" in fault["module"]


def test_an_option_that_the_target_does_not_take_is_a_warning(whole):
    targets = {"onnxruntime-cpu": {"level": 3}}
    (fault,) = of(look(whole[0], media=False, model={"export": {"targets": targets}}), "unheeded")
    assert fault["severity"] == "warning" and "export.targets.onnxruntime-cpu.level" in fault["what"]


@pytest.mark.parametrize(
    "column, content",
    [("picture", b""), ("picture", "half"), ("picture", b"no picture"), ("sound", b"RIFF"), ("motion", "half")],
)
def test_an_unreadable_file_is_told_with_its_row_and_column(task, column, content):
    manifest, rows = task
    index, cell = at(rows, column, 20)
    file = manifest.parent / cell
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content == "half" else content)
    (fault,) = of(look(manifest, rows), "unreadable")
    assert (fault["row"], fault["column"], fault["severity"]) == (index + 1, column, "error")
    assert cell in fault["what"] and fault["file"] == str(manifest) and fault["todo"]


def test_a_missing_file_is_told_with_and_without_looking_at_media(task):
    manifest, rows = task
    index, cell = at(rows, "sound", 5)
    (manifest.parent / cell).unlink()
    for media in (True, False):
        (fault,) = of(look(manifest, rows, media=media), "missing-file")
        assert fault["row"] == index + 1 and fault["column"] == "sound"


def test_a_truncated_wav_that_the_library_reads_without_a_word_is_told(task):
    manifest, rows = task
    index, cell = at(rows, "sound", 8)
    file = manifest.parent / cell
    file.write_bytes(file.read_bytes()[:-3000])
    assert len(soundfile.read(file)[0]) == 2500
    (fault,) = of(look(manifest, rows), "unreadable")
    assert fault["row"] == index + 1 and "3000 of the bytes" in fault["what"]


def test_nan_in_a_series_and_in_a_sound_is_told(task):
    manifest, rows = task
    motion, cell = at(rows, "motion", 3)
    np.save(manifest.parent / cell, np.full((2, 50), np.nan, np.float32))
    sound, cell = at(rows, "sound", 12)
    soundfile.write(manifest.parent / cell, np.full(4000, np.nan, np.float32), 8000, subtype="FLOAT")
    found = {(fault["row"], fault["column"]) for fault in of(look(manifest, rows), "unreadable")}
    assert found == {(motion + 1, "motion"), (sound + 1, "sound")}


def test_a_cell_that_is_no_number_or_not_finite_is_told(task):
    manifest, rows = task
    rows[10][3], rows[11][3], rows[12][4] = "heavy", "nan", "inf"
    faults = of(look(manifest, rows), "number")
    assert [(f["row"], f["column"]) for f in faults] == [(11, "weight"), (12, "weight"), (13, "height")]


def test_a_constant_column_and_a_blank_picture_are_warned_of(task):
    manifest, rows = task
    for row in rows:
        row[4] = "5"
    index, cell = at(rows, "picture", 9)
    Image.new("RGB", (40, 40), (7, 7, 7)).save(manifest.parent / cell)
    card = look(manifest, rows)
    assert [fault["column"] for fault in of(card, "constant")] == ["height"]
    assert [fault["row"] for fault in of(card, "blank")] == [index + 1] and card["errors"] == 0


def test_a_constant_channel_is_warned_of(task):
    manifest, rows = task
    for file in (manifest.parent / "m").iterdir():
        series = np.load(file)
        series[1] = 3
        np.save(file, series)
    (fault,) = of(look(manifest, rows), "constant")
    assert "channel 1 of motion" in fault["what"]


def with_split(rows, of_row):
    return [[*row, of_row(index)] for index, row in enumerate(rows)]


SPLIT = {"header": [*COLUMNS, "part"], "split": "part"}


def spread(index):
    return ("train", "train", "validation", "test")[index // 2 % 4]


def test_a_label_that_training_never_sees_is_an_error_with_its_row(task):
    manifest, rows = task
    rows[7][8] = "castle"
    faults = of(look(manifest, with_split(rows, spread), **SPLIT), "unseen-label")
    assert [(f["row"], f["column"]) for f in faults] == [(8, "kind")] and "castle" in faults[0]["what"]


def test_tiny_and_empty_classes_are_warned_of(task):
    manifest, rows = task
    for index in (0, 1, 8):
        rows[index][8] = "castle"
    card = look(manifest, with_split(rows, spread), **SPLIT)
    assert "3 training samples" in of(card, "tiny-class")[0]["what"]
    assert len(of(card, "empty-class")) == 2 and card["errors"] == 0


def test_one_class_in_training_is_an_error_and_in_test_a_warning(task):
    manifest, rows = task
    card = look(manifest, [row for row in rows if row[8] == "flower"])
    assert {fault["severity"] for fault in of(card, "one-class")} == {"error", "warning"} and card["errors"] == 1


def test_an_empty_split_and_an_unlabelled_one_are_errors(task):
    manifest, rows = task
    card = look(manifest, with_split(rows, lambda index: "train"), **SPLIT)
    assert "the test split is empty" in of(card, "empty-split")[0]["what"]
    for index, row in enumerate(rows):
        row[8] = "" if spread(index) == "test" else row[8]
    assert len(of(look(manifest, with_split(rows, spread), **SPLIT), "unlabelled-split")) == 1


def test_an_unknown_split_and_an_id_twice_are_told_with_every_row(task):
    manifest, rows = task
    rows = with_split(rows, lambda index: "tset" if index in (3, 9) else spread(index))
    rows = [[*row, f"s{index % 50}"] for index, row in enumerate(rows)]
    card = look(manifest, rows, header=[*COLUMNS, "part", "name"], split="part", id="name")
    assert [fault["row"] for fault in of(card, "split")] == [4, 10] and len(of(card, "id")) == 20
    assert card["splits"]["train"]["samples"]  # and the rest was looked at all the same


def test_a_group_in_two_splits_is_leakage(task):
    manifest, rows = task
    faults = of(look(manifest, with_split(rows, spread), group="who", **SPLIT), "group-leakage")
    assert faults and faults[0]["severity"] == "error" and "person" in faults[0]["what"]
    assert not of(look(manifest, rows, group="who", header=COLUMNS), "group-leakage")


def test_people_in_several_splits_are_warned_of_where_no_group_is_named(task):
    manifest, rows = task
    (fault,) = of(look(manifest, rows, media=False), "no-group")
    assert "'who'" in fault["what"] and "data.group: who" in fault["todo"]
    assert not of(look(manifest, rows, group="who", media=False), "no-group")


def test_sounds_below_the_rate_that_is_computed_with_are_warned_of(task):
    manifest, rows = task
    for rate, warned in ((8000, 0), (16000, 1), (4000, 0)):
        sound = {**MODALITIES["sound"], "sample_rate": rate}
        found = of(look(manifest, rows, modalities={**MODALITIES, "sound": sound}), "upsampled")
        assert len(found) == warned and all("4000 Hz stay empty" in fault["what"] for fault in found)


def test_a_copied_file_and_a_copied_sample_across_splits_are_found_by_content(task):
    manifest, rows = task
    train, test = (
        next(i for i in range(60) if spread(i) == split and all(rows[i][c] for c in (0, 1, 6)))
        for split in ("train", "test")
    )
    shutil.copy(manifest.parent / rows[train][0], manifest.parent / rows[test][0])
    card = look(manifest, with_split(rows, spread), **SPLIT)
    (fault,) = of(card, "duplicate")
    assert fault["severity"] == "warning" and fault["column"] == "picture" and fault["row"] == min(train, test) + 1
    for column in (1, 6):
        shutil.copy(manifest.parent / rows[train][column], manifest.parent / rows[test][column])
    rows[test][2:6] = rows[train][2:6]
    card = look(manifest, with_split(rows, spread), model={"quantize": {}}, **SPLIT)
    assert [fault["severity"] for fault in of(card, "duplicate")].count("error") == 1
    (overlap,) = of(card, "calibration-overlap")
    assert overlap["severity"] == "error"


def test_the_same_row_twice_is_kept_in_one_split_where_mmedge_splits(task):
    manifest, rows = task
    assert not of(look(manifest, rows + rows), "duplicate")


def test_a_modality_that_is_absent_everywhere_is_an_error_and_from_test_a_warning(task):
    manifest, rows = task
    for row in rows:
        row[1] = ""
    (fault,) = of(look(manifest, rows), "absent-modality")
    assert fault["severity"] == "error" and "'sound'" in fault["what"]
    for index, row in enumerate(rows):
        row[1] = f"s/{index}.wav" if spread(index) != "test" else ""
    (fault,) = of(look(manifest, with_split(rows, spread), **SPLIT), "absent-modality")
    assert fault["severity"] == "warning" and "test split" in fault["what"]


def test_a_row_with_nothing_in_it_is_warned_of_and_left_out(task):
    manifest, rows = task
    rows[30][:7] = [""] * 7
    card = look(manifest, rows)
    assert [fault["row"] for fault in of(card, "empty-row")] == [31] and card["errors"] == 0


def test_a_row_that_is_left_out_counts_nowhere_as_in_a_run(task):
    manifest, rows = task
    rows[7][:9] = [""] * 7 + rows[7][7:8] + ["castle"]
    assert spread(7) == "test"
    card = look(manifest, with_split(rows, spread), **SPLIT)
    assert [fault["row"] for fault in of(card, "empty-row")] == [8] and card["errors"] == 0, card["faults"]
    assert "castle" not in card["splits"]["test"]["classes"] and card["splits"]["test"]["samples"] == 13
    for index, row in enumerate(rows):
        row[:7] = [""] * 7 if spread(index) == "test" else row[:7]
    assert "the test split is empty" in of(look(manifest, with_split(rows, spread), **SPLIT), "empty-split")[0]["what"]


def test_a_mix_of_sample_rates_is_warned_of_with_a_row_of_the_rare_one(task):
    manifest, rows = task
    index, cell = at(rows, "sound", 15)
    soundfile.write(manifest.parent / cell, np.sin(np.arange(8000) / 5).astype(np.float32) / 2, 16000)
    (fault,) = of(look(manifest, rows), "sample-rates")
    assert fault["row"] == index + 1 and "1 at 16000 Hz" in fault["what"]


def test_missing_columns_are_told_all_at_once_and_the_models_are_looked_at_still(task):
    manifest, rows = task
    header = ["pictures", *COLUMNS[1:8], "kinds"]
    card = look(manifest, rows, header=header, group="whom", model={"teacher": {"model": {"factory": "absent:net"}}})
    assert [fault["column"] for fault in of(card, "missing-column")] == ["kind", "whom", "picture"]
    assert "did you mean 'pictures'" in of(card, "missing-column")[2]["what"] and len(of(card, "model")) == 1


def test_targets_that_are_no_numbers_are_told_for_regression(task):
    manifest, rows = task
    for index, row in enumerate(rows):
        row[8] = str(index / 7)
    rows[4][8], rows[5][8] = "tall", "inf"
    assert [f["row"] for f in of(look(manifest, rows, task="regression"), "target")] == [5, 6]


def test_labels_that_differ_in_case_or_blanks_only_are_warned_of(task):
    manifest, rows = task
    rows[4][8] = "Temple "
    (fault,) = of(look(manifest, rows, media=False), "alike-labels")
    assert "'Temple '" in fault["what"] and "'temple'" in fault["what"] and fault["severity"] == "warning"


def test_a_split_of_few_groups_is_warned_of_and_one_of_many_is_not(task):
    manifest, rows = task
    assert {fault["what"].split()[1] for fault in of(look(manifest, rows, media=False, group="who"), "few-groups")} == {
        "validation",
        "test",
    }
    for index, row in enumerate(rows):
        row[7] = f"person {index}"
    assert not of(look(manifest, rows, media=False, group="who"), "few-groups")


def test_samples_without_a_label_that_cannot_be_scored_are_warned_of(task):
    manifest, rows = task
    lost = [index for index in range(60) if spread(index) == "test"][:3]
    for index in (0, *lost):  # the first is of training, where distillation uses it
        rows[index][8] = ""
    (fault,) = of(look(manifest, with_split(rows, spread), media=False, **SPLIT), "unlabelled")
    assert "3 samples of the test split" in fault["what"]


def test_a_column_of_more_words_than_are_told_apart_is_warned_of(task):
    manifest, rows = task
    for index, row in enumerate(rows):
        row[5] = f"colour {index}"
    facts = recipe_values(manifest)["data"]["modalities"]
    (fault,) = of(
        look(manifest, rows, media=False, modalities=facts | {"facts": facts["facts"] | {"max_categories": 9}}),
        "categories",
    )
    assert fault["column"] == "colour" and "the 9 commonest" in fault["what"]


def test_texts_and_sounds_that_are_cut_are_warned_of(task):
    manifest, rows = task
    given = recipe_values(manifest)["data"]["modalities"]
    assert not of(look(manifest, rows), "cut-text") and not of(look(manifest, rows), "cut-audio")
    short = given | {"words": given["words"] | {"length": 3}, "sound": given["sound"] | {"frames": 8}}
    card = look(manifest, rows, modalities=short)
    (text,), (sound,) = of(card, "cut-text"), of(card, "cut-audio")
    assert text["column"] == "words" and "100% of the texts" in text["what"]
    assert sound["column"] == "sound" and "longer than 0.50 s" in sound["what"] and "0.13 s of each" in sound["what"]


def test_half_a_box_is_an_error(task):
    manifest, rows = task
    rows = [[*row, 0, 0, 30, "" if index == 4 else 30] for index, row in enumerate(rows)]
    boxed = recipe_values(manifest)["data"]["modalities"] | {
        "picture": {"kind": "image", "column": "picture", "box": ["l", "t", "r", "b"], "height": 8, "width": 8}
    }
    card = look(manifest, rows, header=[*COLUMNS, "l", "t", "r", "b"], modalities=boxed)
    assert [fault["row"] for fault in of(card, "box")] == [5]


def test_all_faults_come_in_one_go_errors_first(task):
    manifest, rows = task
    _, cell = at(rows, "picture", 0)
    (manifest.parent / cell).write_bytes(b"x")
    _, cell = at(rows, "sound", 0)
    (manifest.parent / cell).unlink()
    rows[20][3] = "heavy"
    for row in rows:
        row[5] = "red"
    card = look(manifest, rows, model={"distill": {"model": {"factory": "nowhere:net"}}})
    assert {fault["kind"] for fault in card["faults"]} >= {"unreadable", "missing-file", "number", "constant", "model"}
    severities = [fault["severity"] for fault in card["faults"]]
    assert severities == sorted(severities) and card["errors"] == severities.count("error")
