"""Data: splits, labels, holes, and every fault told with its sample."""

import csv

import numpy as np
import pytest
from PIL import Image

from mmedge.data.store import samples
from mmedge.data.store.folder import held
from mmedge.errors import MmedgeError, UsageError
from mmedge.pipeline import fold as pipeline
from mmedge.pipeline.check import check
from mmedge.progress import Silent
from mmedge.spec import TabularSpec
from tests.conftest import parsed

RNG = np.random.default_rng(0)


def numbers(tmp_path, rows, *, columns=("id", "a", "b", "label", "split", "who"), distill=None, **data):
    """A recipe over a small manifest of two numbers, prepared."""
    with (tmp_path / "m.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    values = {
        "name": "t",
        "data": {
            "manifest": str(tmp_path / "m.csv"),
            "modalities": {"vitals": {"kind": "tabular", "columns": ["a", "b"]}},
            **data,
        },
        **({"distill": distill} if distill else {}),
    }
    return samples.prepare(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())


def rows(n=60, label=lambda i: "yn"[i % 2], split=lambda i: ["train", "train", "validation", "test"][i // 2 % 4]):
    return [[f"s{i}", i, i * i % 7, label(i), split(i), f"p{i // 6}"] for i in range(n)]


def test_the_demos_splits_share_no_recording_and_have_every_label_evenly(media):
    with (media / "manifest.csv").open() as stream:
        table = list(csv.DictReader(stream))
    groups = {
        split: {row["group"] for row in table if row["split"] == split} for split in ("train", "validation", "test")
    }
    assert not groups["train"] & groups["test"] and not groups["train"] & groups["validation"]
    assert not groups["validation"] & groups["test"]
    for split, each in (("train", 24), ("validation", 5), ("test", 6)):
        labels = [row["label"] for row in table if row["split"] == split]
        assert [labels.count(str(digit)) for digit in range(10)] == [each] * 10


def test_the_demos_files_are_real_png_and_wav_files(media):
    import soundfile

    with Image.open(next((media / "image").iterdir())) as picture:
        assert (picture.format, picture.size, picture.mode) == ("PNG", (28, 28), "L")
    information = soundfile.info(next((media / "audio").iterdir()))
    assert (information.format, information.samplerate, information.frames) == ("WAV", 8000, 6144)


def test_inputs_are_normalised_by_the_training_split(dataset):
    for name, x in dataset.train.inputs.items():
        axes = (0, 2, 3) if name == "image" else (0, 1, 3)
        np.testing.assert_allclose(np.asarray(x).mean(axis=axes), 0, atol=1e-4)
        np.testing.assert_allclose(np.asarray(x).std(axis=axes), 1, atol=1e-3)


def test_targets_follow_the_sorted_labels_and_ids_their_rows(dataset):
    assert dataset.contract.heads["logits"].labels == tuple(str(digit) for digit in range(10))
    for name, target in zip(dataset.test.ids, dataset.test.targets["logits"]):
        assert name.startswith(f"test-{target}-")


@pytest.mark.parametrize("count", [10, 25, 200])
def test_with_labels_spreads_the_labels_over_the_classes(dataset, count):
    few = dataset.train.with_labels(count, seed=0)
    assert few.labelled.sum() == count
    kept = np.bincount(few.targets["logits"][few.labelled], minlength=10)
    assert kept.max() - kept.min() <= 1
    np.testing.assert_array_equal(few.targets["logits"][few.labelled], dataset.train.targets["logits"][few.labelled])


def test_with_labels_is_drawn_by_its_seed_and_nested(dataset):
    def labelled(count, seed):
        return set(np.flatnonzero(dataset.train.with_labels(count, seed).labelled))

    assert labelled(30, 0) == labelled(30, 0) != labelled(30, 1)
    assert labelled(30, 0) < labelled(80, 0)
    with pytest.raises(MmedgeError, match="the training split has 240"):
        dataset.train.with_labels(241, 0)


def test_only_keeps_the_columns_of_presence_with_their_modality(dataset):
    alone = dataset.test.only(["audio"])
    assert list(alone.inputs) == ["audio"] and alone.present.shape == (60, 1)


def test_a_given_split_is_kept_and_its_other_names_are_understood(tmp_path):
    table = rows(split=lambda i: ["train", "train", "dev", "test"][i // 2 % 4])
    made = numbers(tmp_path, table, id="id", split="split")
    assert set(made.validation.ids) == {row[0] for row in table if row[4] == "dev"}
    assert len(made.train) + len(made.validation) + len(made.test) == 60


def test_a_split_by_group_keeps_groups_whole_and_near_the_ratios(tmp_path):
    made = numbers(tmp_path, rows(240), id="id", group="who")
    people = {
        split.split: {int(name[1:]) // 6 for name in split.ids} for split in (made.train, made.validation, made.test)
    }
    assert sum(map(len, people.values())) == 40 == len(set().union(*people.values()))
    assert len(made.train) == pytest.approx(168, abs=12)
    for split in (made.train, made.validation, made.test):
        assert len(np.unique(split.groups)) == len(people[split.split])


def test_a_split_without_groups_is_stratified_and_drawn_by_the_seed(tmp_path):
    made = numbers(tmp_path, rows(200, label=lambda i: "rare" if i % 10 == 0 else "often"))
    for split, rare, often in ((made.train, 14, 126), (made.validation, 3, 27), (made.test, 3, 27)):
        counts = np.bincount(split.targets["logits"])
        assert abs(counts[1] - rare) <= 1 and abs(counts[0] - often) <= 1


def test_a_hole_in_the_manifest_is_a_missing_modality(tmp_path):
    table = rows(label=lambda i: "yn"[i % 2])
    for number, row in enumerate(table):
        row.append(number)
        if number % 3 == 0:
            row[1] = row[2] = ""  # a single empty cell is imputed; a row without any of them lacks the modality
    made = numbers(
        tmp_path,
        table,
        columns=("id", "a", "b", "label", "split", "who", "c"),
        id="id",
        split="split",
        modalities={
            "vitals": {"kind": "tabular", "columns": ["a", "b"]},
            "more": {"kind": "tabular", "columns": ["c"]},
        },
    )
    for split in (made.train, made.validation, made.test):
        absent = np.array([int(name[1:]) % 3 == 0 for name in split.ids])
        np.testing.assert_array_equal(split.present, np.stack([~absent, np.ones(len(split), bool)], axis=1))
        assert not split.inputs["vitals"][absent].any()
    whole = made.train.inputs["vitals"][made.train.present[:, 0]]
    np.testing.assert_allclose(whole.mean(axis=0), 0, atol=1e-5)


def test_unlabelled_rows_are_kept_as_such(tmp_path):
    made = numbers(tmp_path, rows(label=lambda i: "" if i % 6 == 0 else "yn"[i % 2]), id="id", split="split")
    unlabelled = np.array([int(name[1:]) % 6 == 0 for name in made.train.ids])
    np.testing.assert_array_equal(made.train.targets["logits"] == -1, unlabelled)


def test_regression_targets_are_numbers_and_unlabelled_is_nan(tmp_path):
    table = rows(label=lambda i: "" if i % 6 == 0 else i / 4)
    made = numbers(tmp_path, table, id="id", split="split", task="regression")
    for name, target in zip(made.test.ids, made.test.targets["value"]):
        number = int(name[1:])
        assert np.isnan(target) if number % 6 == 0 else target == pytest.approx(number / 4)


@pytest.mark.parametrize("column", ["group", "source", "id", "target"])
def test_a_target_column_may_have_any_name(tmp_path, column):
    columns = ("name", "a", "b", column, "split", "who")
    made = numbers(tmp_path, rows(), columns=columns, id="name", split="split", target=column)
    assert made.contract.heads["logits"].labels == ("n", "y")
    assert [made.contract.heads["logits"].labels[target] for target in made.test.targets["logits"]] == [
        "yn"[int(name[1:]) % 2] for name in made.test.ids
    ]


@pytest.mark.parametrize(
    ("table", "data", "said"),
    [
        (rows(label=lambda i: "zz" if i == 6 else "yn"[i % 2]), {}, "label 'zz' of 1 test samples.*\n.*s6"),
        (rows(label=lambda i: "y"), {}, "one class only: 'y'"),
        (rows(split=lambda i: "train"), {}, "split is empty"),
        (rows(split=lambda i: "tarin"), {}, "unknown split 'tarin'"),
        (rows(label=lambda i: ""), {}, "no sample of the train split has a label"),
        (rows(label=lambda i: "abc" if i == 6 else i), {"task": "regression"}, "'abc' is not a finite number.*\n.*s6"),
        (rows(label=lambda i: "nan" if i == 6 else i), {"task": "regression"}, "'nan' is not a finite number"),
        ([[*row[:1], "x", *row[2:]] if row[0] == "s4" else row for row in rows()], {}, "must be numbers.*\n.*s4"),
        ([[*row[:1], "inf", *row[2:]] if row[0] == "s4" else row for row in rows()], {}, "holds NaN.*infinite.*\n.*s4"),
        ([["s1", *row[1:]] for row in rows()], {}, "the id .s1. stands in more than one row"),
        ([], {}, "no rows"),
        (rows(), {"target": "lable"}, "did you mean 'label'"),
        (rows(), {"group": "whoo"}, "did you mean 'who'"),
        (rows(), {"modalities": {"x": {"kind": "tabular", "columns": ["aa"]}}}, "no column 'aa'"),
    ],
)
def test_a_fault_of_the_manifest_is_told_with_its_place(tmp_path, table, data, said):
    with pytest.raises(MmedgeError, match=said) as raised:
        numbers(tmp_path, table, id="id", split="split", **data)
    assert len(str(raised.value).splitlines()) <= 3


def test_a_table_without_a_single_label_is_told_as_such_and_not_as_a_wrong_ratio(tmp_path):
    with pytest.raises(MmedgeError, match="no row has a label, and the validation split is of labelled rows") as raised:
        numbers(tmp_path, rows(label=lambda i: ""), id="id")
    assert "'label'" in str(raised.value) and "ratios" not in str(raised.value)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_training_split_without_labels_is_enough_where_the_student_sees_none(tmp_path, task):
    """The classes, or the range of the values, are told by the splits that judge."""
    label = (lambda i: "yn"[i % 2]) if task == "classification" else str
    table = [[*row[:3], "" if row[4] == "train" else row[3], *row[4:]] for row in rows(label=label)]
    with pytest.raises(MmedgeError, match=r"no sample of the train split has a label\n.*\n.*distill.labels: none"):
        numbers(tmp_path, table, id="id", split="split", task=task)
    made = numbers(tmp_path, table, distill={"labels": "none"}, id="id", split="split", task=task)
    assert not made.train.labelled.any() and made.validation.labelled.all() and made.test.labelled.all()
    assert not made.train.with_labels(0, seed=0).labelled.any()
    if task == "classification":
        assert made.contract.heads["logits"].labels == ("n", "y")
    else:
        known = np.concatenate([made.validation.targets["value"], made.test.targets["value"]])
        assert made.contract.heads["value"].mean == pytest.approx(known.mean())
        assert made.contract.heads["value"].std == pytest.approx(known.std())


def test_a_regression_whose_test_targets_are_all_equal_is_told_before_training(tmp_path):
    with pytest.raises(MmedgeError, match=r"test split.*same"):
        numbers(
            tmp_path,
            rows(label=lambda i: 5 if i // 2 % 4 == 3 else i),
            id="id",
            split="split",
            task="regression",
        )


def test_a_missing_manifest_is_an_error_that_says_what_to_do(tmp_path):
    values = {"name": "t", "data": {"manifest": str(tmp_path / "no.csv"), "modalities": {"a": {"kind": "image"}}}}
    with pytest.raises(MmedgeError, match=r"does not exist.*\n.*no\.csv.*\n.*data\.manifest"):
        samples.prepare(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())


def pictures(tmp_path, break_file=None):
    names = []
    for index in range(24):
        Image.fromarray(RNG.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / f"{index}.png")
        names.append([f"s{index}", f"{index}.png", "ab"[index % 2], ["train", "validation", "test"][index // 2 % 3]])
    if break_file:
        break_file(tmp_path)
    with (tmp_path / "m.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "image", "label", "split"], *names])
    return prepared_pictures(tmp_path)


def prepared_pictures(tmp_path):
    modality = {"kind": "image", "height": 8, "width": 8, "channels": 1}
    values = {
        "name": "t",
        "data": {"manifest": str(tmp_path / "m.csv"), "id": "id", "split": "split", "modalities": {"image": modality}},
    }
    return samples.prepare(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())


def test_a_missing_file_is_told_with_its_sample(tmp_path):
    with pytest.raises(MmedgeError, match=r"m\.csv, row 8, column image, sample s7: .*7\.png"):
        pictures(tmp_path, lambda folder: (folder / "7.png").unlink())


def test_broken_files_are_told_with_the_first_ones_sample_and_their_number(tmp_path):
    def break_two(folder):
        for name in ("6.png", "12.png"):
            (folder / name).write_bytes(b"broken")

    with pytest.raises(MmedgeError, match=r"1 more such sample.*\n.*row 7, column image, sample s6: .*6\.png"):
        pictures(tmp_path, break_two)


def test_a_row_with_nothing_in_it_is_left_out_and_counted(tmp_path):
    holes = [[*row[:1], "", "", *row[3:]] if row[0] == "s4" else row for row in rows()]
    whole = numbers(tmp_path, holes, id="id", split="split")
    names = {name for split in (whole.train, whole.validation, whole.test) for name in split.ids}
    assert whole.facts.record() == {"left_out": 1} and "s4" not in names and len(names) == len(holes) - 1


def test_a_changed_file_is_not_mistaken_for_the_old_one(tmp_path):
    first = pictures(tmp_path)
    assert prepared_pictures(tmp_path).sha256 == first.sha256
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "0.png")
    second = prepared_pictures(tmp_path)
    assert second.sha256 != first.sha256
    assert not np.array_equal(second.train.inputs["image"][0], first.train.inputs["image"][0])


def test_the_same_samples_can_be_had_with_another_preprocessing_decoded_once(tmp_path):
    whole = numbers(tmp_path, rows(), id="id", split="split")
    spec = whole.contract.modalities["vitals"]
    other = TabularSpec(kind="tabular", columns=("b",), missing_indicator=True)
    seen = whole.preprocessed({"vitals": other}, Silent())
    assert (
        seen.train.ids == whole.train.ids
        and seen.contract.heads["logits"].labels == whole.contract.heads["logits"].labels
    )
    assert seen.train.inputs["vitals"].shape == whole.train.inputs["vitals"].shape == (32, 2)
    np.testing.assert_array_equal(seen.test.inputs["vitals"][:, 0], whole.test.inputs["vitals"][:, 1])
    fitted = seen.contract.modalities["vitals"]
    assert fitted.mean == spec.mean[1:] and whole.contract.modalities["vitals"] == spec
    # Asked again by the spec of the recipe, by the fitted one, or by the data's own: nothing is decoded.
    files = sorted((tmp_path / "out" / ".work").rglob("*.npy"))
    for again in (other, fitted, spec):
        whole.preprocessed({"vitals": again}, Silent())
    assert sorted((tmp_path / "out" / ".work").rglob("*.npy")) == files


@pytest.mark.parametrize(
    ("name", "columns", "said"), [("vitlas", ("a",), "did you mean 'vitals'"), ("vitals", ("c",), "reads c")]
)
def test_another_preprocessing_of_what_the_data_does_not_have_is_refused(tmp_path, name, columns, said):
    whole = numbers(tmp_path, rows(), id="id", split="split")
    with pytest.raises(UsageError, match=said):
        whole.preprocessed({name: TabularSpec(kind="tabular", columns=columns)}, Silent())


def test_a_folder_is_one_process_own_until_it_ends_and_a_run_or_check_beside_it_is_refused(values, tmp_path):
    """Two runs of one folder ended in a bus error: one replaced the file that the other had mapped."""
    recipe, out = parsed(values), tmp_path / "out"
    with held(out):
        for call in (pipeline.run, check):
            with pytest.raises(MmedgeError, match="another mmedge is at work in this folder"):
                call(recipe, out, code=tmp_path, progress=Silent())
    with held(out):
        pass
