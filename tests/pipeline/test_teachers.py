"""Teachers from anywhere: each goes through to a bundle, or is refused with what to do."""

import csv
import shutil

import numpy as np
import polars
import pytest

from mmedge import artifact
from mmedge.backends import onnxruntime_cpu
from mmedge.errors import MmedgeError, UsageError
from mmedge.measure.quality import graph_predictor
from mmedge.pipeline import fold as pipeline
from mmedge.progress import Silent
from mmedge.report.html import write_html
from mmedge.report.table import print_report
from mmedge.runtime import load
from mmedge.stages import train
from mmedge.training.teaching.taught import teacher_for
from tests.conftest import parsed

SHORT = {"epochs": 1, "batch_size": 32, "learning_rate": 0.004, "augment": {"audio": {"shift": 2}}, "views": 2}


@pytest.fixture
def small(values):
    """The tiny recipe, one epoch a stage, without controls and hints."""
    values["distill"] |= {"loss": {}, "train": SHORT, "controls": {"seeds": 1, "no_distillation": False}}
    values["prune"]["train"] = SHORT
    values["export"] = {"targets": {"onnxruntime-cpu": {}}}
    values["quantize"] |= {"candidates": ["fp32"]}
    return values


@pytest.fixture(scope="session")
def answers(finished, dataset, tmp_path_factory):
    """The finished teacher's logits for every sample of every split, by id: {id: [10]}."""
    made = finished.artifact("teacher")
    run = onnxruntime_cpu.session(made.file("model.onnx"))
    out = {}
    for split in (dataset.train, dataset.validation, dataset.test):
        logits = graph_predictor(run, dataset.contract, split)(split.present)["logits"]
        out |= dict(zip(split.ids, logits))
    return out


def write_csv(path, answers, labels):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", *labels], *([sample, *row] for sample, row in answers.items())])
    return path


def run(values, out, **more):
    return pipeline.run(parsed(values), out, code=out.parent, progress=Silent(), **more)


@pytest.mark.long
def test_a_file_of_outputs_teaches_all_the_way_to_a_bundle(finished, small, answers, dataset, tmp_path, capfd):
    """Some training samples and half of the test split are not in the file; the classes stand in another order."""
    lacking = {*dataset.train.ids[:40], *dataset.test.ids[:30]}
    kept = {sample: row[::-1] for sample, row in answers.items() if sample not in lacking}
    labels = dataset.contract.heads["logits"].labels[::-1]
    small["teacher"] = {"outputs": str(write_csv(tmp_path / "o.csv", kept, labels))}
    outcome = run(small, finished.copied(tmp_path / "out"))
    by_stage = {stage["stage"]: stage for stage in outcome.report.record()["stages"]}
    assert list(by_stage) == ["teacher", "distill", "prune", "quantize", "export-onnxruntime-cpu"]
    teacher = by_stage["teacher"]
    assert not {"params", "macs", "latency"} & teacher.keys() and teacher["subsets"] == {}
    assert teacher["quality"]["n"] == 30
    assert teacher["quality_validation"]["value"] == finished.stage("teacher")["quality_validation"]["value"]
    assert any("30 of 60 samples that the file has" in note for note in teacher["notes"])
    notes = " ".join(by_stage["distill"]["notes"])
    assert "200 of the 240 train samples; the others learn from their labels alone" in notes
    assert "taught by the same" in notes
    assert "ratio_to_teacher" not in by_stage["quantize"]["latency"]
    write_html(outcome.report, tmp_path / "out" / "report.html")
    print_report(outcome.report)
    assert "not measured" in capfd.readouterr().err
    engine = load(tmp_path / "out" / "bundle")
    row = polars.read_csv(tmp_path / "out" / "data" / "test.csv").row(0, named=True)
    assert engine.predict(image=row["image"], audio=row["audio"]).label in dataset.contract.heads["logits"].labels
    again = run(small, tmp_path / "out")
    assert {stage["status"] for stage in again.report.record()["stages"]} == {"cached"}


@pytest.mark.parametrize(
    ("distill", "said"),
    [
        ({"loss": {"hints": [{"student": "fussion"}]}}, r"no layer 'fussion' \(did you mean 'fusion'"),
        ({"loss": {"hints": [{"teacher": "encoders.audi"}]}}, "the teacher has no layer 'encoders.audi'"),
        ({"model": {"factory": "no_such_module:student"}}, "no_such_module"),
        ({"teachers": [{"onnx": "no.onnx"}]}, "does not exist"),
        ({"labels": 1000}, "1000 labels are asked for, the training split has 240"),
    ],
)
def test_what_is_wrong_with_the_student_is_told_before_a_teacher_is_trained_for_it(
    finished, small, tmp_path, distill, said
):
    small["distill"] |= distill
    out = finished.copied(tmp_path / "out")
    with pytest.raises(MmedgeError, match=said):
        run(small, out)
    assert not (out / "teacher").exists() and not list((out / ".work").glob("teacher-*"))


@pytest.mark.long
def test_distill_takes_a_ready_made_teacher_without_an_earlier_command(small, answers, dataset, tmp_path):
    file = write_csv(tmp_path / "o.csv", answers, dataset.contract.heads["logits"].labels)
    small["teacher"] = {"outputs": str(file)}
    outcome = run(small, tmp_path / "out", only="distill")
    assert [(stage["stage"], stage["status"]) for stage in outcome.report.record()["stages"]] == [
        ("teacher", "ran"),
        ("distill", "ran"),
    ]


def test_outputs_without_a_sample_in_common_or_with_other_classes_are_refused(
    finished, small, answers, dataset, tmp_path
):
    file, labels = tmp_path / "o.csv", dataset.contract.heads["logits"].labels
    small["teacher"] = {"outputs": str(file)}
    write_csv(file, {f"x{sample}": row for sample, row in answers.items()}, labels)
    out = finished.copied(tmp_path / "out")
    with pytest.raises(MmedgeError, match="no sample in common"):
        run(small, out)
    write_csv(file, answers, ["zero", *labels[1:]])
    with pytest.raises(UsageError, match=r"(?s)does not have the teacher's 'zero'.*classes: {zero: …}"):
        run(small, out)
    tests = set(dataset.test.ids)
    write_csv(file, {sample: row for sample, row in answers.items() if sample not in tests}, ["zero", *labels[1:]])
    small["teacher"]["classes"] = {"zero": labels[0]}
    outcome = run(small, out, only="teacher")
    (teacher,) = outcome.report.record()["stages"]
    assert "quality" not in teacher and any("no quality on the test split" in note for note in teacher["notes"])
    small["gates"] = {"teacher": {"quality": 0.1}}
    assert run(small, out, only="teacher").exit_code == 3  # what was not measured does not pass
    del small["distill"]
    with pytest.raises(UsageError, match="add a section distill"):
        parsed(small)


@pytest.mark.long
def test_a_teacher_with_another_preprocessing_of_the_same_modality_teaches_and_the_bundle_keeps_the_students(
    finished, small, tmp_path
):
    audio = small["data"]["modalities"]["audio"]
    small["teacher"]["preprocessing"] = {
        "audio": {**audio, "preset": "librosa", "mels": 24, "frames": 48, "hop_ms": 16}
    }
    small["teacher"]["train"] = SHORT
    del small["prune"], small["quantize"]
    outcome = run(small, finished.copied(tmp_path / "out"))
    teacher, student = (artifact.read(tmp_path / "out" / stage) for stage in ("teacher", "distill"))
    shapes = [made.meta["contract"]["modalities"]["audio"]["mels"] for made in (teacher, student)]
    assert shapes == [24, 16] and "preset" not in student.meta["contract"]["modalities"]["audio"]
    by_stage = {stage["stage"]: stage for stage in outcome.report.record()["stages"]}
    assert set(by_stage["teacher"]["subsets"]) == {"image", "audio", "image+audio"}
    assert by_stage["export-onnxruntime-cpu"]["latency"]["ratio_to_teacher"] > 0
    assert load(tmp_path / "out" / "bundle").contract.modalities["audio"].mels == 16
    # Given to a recipe that says nothing of it, the artifact brings its preprocessing along.
    del small["teacher"]["preprocessing"]
    other = finished.copied(tmp_path / "other")
    given = run(small, other, start=tmp_path / "out" / "teacher", only="distill").report.record()["stages"]
    assert given[0]["quality"] == by_stage["teacher"]["quality"]
    assert given[1]["quality"] == by_stage["distill"]["quality"]


@pytest.mark.long
def test_an_onnx_teacher_with_classes_of_its_own_teaches_those_that_it_shares(finished, small, tmp_path):
    """The finished teacher's graph, its classes renamed: two mean one, one means none, so two are left to the labels.

    The same teacher by its weights is judged alike.
    """
    shutil.copy(finished.out / "teacher" / "model.onnx", tmp_path / "t.onnx")
    names = {f"digit {n}": str(n) for n in range(10)}
    tiny_model = small["teacher"]["model"]
    small["teacher"] = {"onnx": str(tmp_path / "t.onnx")}
    del small["prune"], small["quantize"]
    out = finished.copied(tmp_path / "out")
    same = run(small | {"teacher": {**small["teacher"], "classes": names}}, out, only="teacher").report.record()[
        "stages"
    ][0]
    assert same["quality"] == finished.stage("teacher")["quality"]
    outcome = run(small | {"teacher": {**small["teacher"], "classes": {**names, "digit 3": "8", "digit 7": None}}}, out)
    teacher, student = outcome.report.record()["stages"][:2]
    assert teacher["quality"]["value"] < same["quality"]["value"]
    assert "left to the labels: 3, 7" in " ".join(student["notes"])
    made = {**tiny_model, "weights": str(finished.out / "teacher" / "weights.safetensors")}
    by_weights = {"model": made, "train": None, "classes": names}
    assert (
        run(small | {"teacher": by_weights}, out, only="teacher").report.record()["stages"][0]["quality"]
        == same["quality"]
    )
    few = {name: label for name, label in names.items() if label != "9"}
    with pytest.raises(UsageError, match=r"shape \[2, 10\] for a batch of 2; the classes need \[2, 9\]"):
        run(small | {"teacher": {**small["teacher"], "classes": few}}, out, only="teacher")


def test_several_teachers_of_different_kinds_teach_together(finished, small, answers, dataset, context, tmp_path):
    """The run's own, the same by its weights, as an ONNX file and as probabilities by id: their mean is what each of them says."""
    p = {sample: np.exp(row) / np.exp(row).sum() for sample, row in answers.items()}
    labels = dataset.contract.heads["logits"].labels
    weights = {"weights": str(finished.out / "teacher" / "weights.safetensors")}
    small["distill"]["teachers"] = [
        {"model": small["teacher"]["model"] | weights},
        {"artifact": str(finished.out / "teacher"), "weight": 0.5},
        {"onnx": str(finished.out / "teacher" / "model.onnx")},
        {"outputs": str(write_csv(tmp_path / "p.csv", p, labels)), "values": "probabilities"},
    ]
    small["distill"]["combine"] = "confidence"
    small["distill"]["train"] = SHORT | {"augment": {}, "views": 1}
    recipe = parsed(small)
    made = teacher_for(recipe.distill, context, recipe.distill.train)
    (_taught, logits) = made._parts(np.arange(len(dataset.train)), 0)
    theirs = np.stack([p[sample] for sample in dataset.train.ids])
    ours = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(ours / ours.sum(axis=1, keepdims=True), theirs, atol=1e-4)
    value = finished.stage("teacher")["quality_validation"]["value"]
    assert any(f"together {value:.3f}" in note and "5 teachers (confidence)" in note for note in made.notes)


@pytest.mark.parametrize("combine", ["average", "confidence"])
def test_the_kept_answers_of_several_teachers_are_found_by_all_of_them(finished, small, context, tmp_path, combine):
    small["distill"] |= {"combine": combine, "teachers": [{"artifact": str(finished.out / "teacher"), "weight": 2.0}]}
    keys = set()
    for change in ({}, {"weight": 3.0}, {"artifact": str(finished.out / "distill")}):
        small["distill"]["teachers"][0] |= change
        recipe = parsed(small)
        keys.add(teacher_for(recipe.distill, context, recipe.distill.train)._key)
    assert len(keys) == 3


def test_a_teacher_that_answers_nan_is_told_with_its_place_and_the_sample(finished, small, answers, dataset, tmp_path):
    bad = {sample: row.copy() for sample, row in answers.items()}
    bad[dataset.train.ids[5]][3] = np.nan
    small["distill"]["teachers"] = [
        {"outputs": str(write_csv(tmp_path / "o.csv", bad, dataset.contract.heads["logits"].labels))}
    ]
    with pytest.raises(MmedgeError, match=f"sample {dataset.train.ids[5]}"):
        run(small, finished.copied(tmp_path / "out", "teacher"), start=finished.out / "teacher", only="distill")


@pytest.mark.long
def test_a_student_of_data_without_a_single_training_label_is_taught_by_outputs(tmp_path):
    rng = np.random.default_rng(0)
    with (tmp_path / "m.csv").open("w", newline="") as table, (tmp_path / "t.csv").open("w", newline="") as taught:
        rows, answers = csv.writer(table), csv.writer(taught)
        rows.writerow(["id", "a", "b", "label", "split"])
        answers.writerow(["id", "value"])
        for i in range(160):
            a, b = rng.normal(size=2)
            split = ["train", "train", "validation", "test"][i % 4]
            label = 300 + 100 * (a - b)
            rows.writerow([f"s{i}", a, b, "" if split == "train" else label, split])
            answers.writerow([f"s{i}", label])
    modalities = {name: {"kind": "tabular", "columns": [name]} for name in "ab"}
    train = {"epochs": 12, "batch_size": 16, "learning_rate": 0.02}
    values = {
        "name": "unlabelled",
        "data": {
            "manifest": str(tmp_path / "m.csv"),
            "id": "id",
            "split": "split",
            "task": "regression",
            "modalities": modalities,
        },
        "teacher": {"outputs": str(tmp_path / "t.csv")},
        "distill": {"labels": "none", "model": {"embedding": 8, "hidden": 8}, "train": train, "controls": {"seeds": 1}},
    }
    made = run(values | {"measure": {"runs": 50, "bootstrap": 100}}, tmp_path / "out", only="distill")
    record = next(stage for stage in made.report.record()["stages"] if stage["stage"] == "distill")
    assert record["quality"]["value"] > 0.7 and record["quality"]["n"] == 40
    assert any("0 of 80 training samples have a label" in note for note in record["notes"])
    assert any("no_distillation left out" in note for note in record["notes"])
    with pytest.raises(UsageError, match="no training sample has a label"):
        run({**values, "teacher": {}}, tmp_path / "other", only="teacher")


def test_a_ready_made_teacher_of_another_order_of_classes_is_refused_before_it_teaches(
    finished, small, dataset, tmp_path
):
    """Outputs without names, right for every sample, but class 1 comes first: nothing would look wrong but the student."""
    splits = (dataset.train, dataset.validation, dataset.test)
    ids, targets = (
        [name for split in splits for name in split.ids],
        np.concatenate([split.targets["logits"] for split in splits]),
    )
    logits = np.roll(10 * np.eye(10, dtype=np.float32)[targets], -1, axis=1)
    np.savez(tmp_path / "o.npz", ids=np.array(ids), logits=logits)
    small["teacher"] = {"outputs": str(tmp_path / "o.npz")}
    out = finished.copied(tmp_path / "out")
    with pytest.raises(UsageError, match=r"another order(?s:.*)in 100%") as raised:
        run(small, out, only="teacher")
    order = [*dataset.contract.heads["logits"].labels[1:], dataset.contract.heads["logits"].labels[0]]
    assert f"classes: {{{', '.join(f'{name}: {name}' for name in order)}}}" in str(raised.value)
    small["teacher"]["classes"] = {name: name for name in order}
    (teacher,) = run(small, out, only="teacher").report.record()["stages"]
    assert teacher["quality_validation"]["value"] == 1.0


@pytest.mark.long
def test_a_further_teacher_of_another_order_of_classes_is_refused_too(finished, small, dataset, tmp_path):
    logits = np.roll(10 * np.eye(10, dtype=np.float32)[dataset.train.targets["logits"]], -1, axis=1)
    np.savez(tmp_path / "o.npz", ids=np.array(dataset.train.ids), logits=logits)
    small["distill"]["teachers"] = [{"outputs": str(tmp_path / "o.npz")}]
    with pytest.raises(UsageError, match=r"another order(?s:.*)distill.teachers.0.classes"):
        run(small, finished.copied(tmp_path / "out"))


@pytest.mark.long
@pytest.mark.parametrize("origin", ["onnx", "weights"])
def test_the_order_of_classes_of_a_model_is_judged_on_training_labels(finished, small, tmp_path, monkeypatch, origin):
    made, judged = finished.artifact("teacher"), []
    monkeypatch.setattr(train, "check_order", lambda output, targets, *_: judged.append((output, targets)))
    if origin == "onnx":
        small["teacher"] = {"onnx": str(made.file("model.onnx"))}
    else:
        small["teacher"] = {"model": {**small["teacher"]["model"], "weights": str(made.file("weights.safetensors"))}}
    run(small, finished.copied(tmp_path / "out"), only="teacher")
    ((output, targets),) = judged
    assert output.shape == (240, 10) and sorted(set(targets)) == list(range(10))
