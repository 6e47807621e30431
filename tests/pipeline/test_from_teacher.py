"""A student of its teacher's layers, from recipe to bundle; and one that begins as a pretrained encoder."""

import pytest

from mmedge import artifact
from mmedge.models import load
from mmedge.pipeline import fold
from mmedge.progress import Silent
from tests.conftest import parsed
from tests.models.pretrained import folders

SHORT = {"epochs": 2, "batch_size": 16, "freeze": []}


def run(tmp_path, **distill):
    table, bert = folders.table(tmp_path), folders.bert(tmp_path / "bert")
    text = {"kind": "text", "column": "name", "length": 8, "tokenizer_file": str(bert / "tokenizer.json")}
    picture = {"kind": "image", "column": "picture", "height": 12, "width": 12}
    values = {
        "schema": 1,
        "name": "layers",
        "data": {"manifest": str(table), "target": "label", "id": "id", "split": "split", "modalities": {"picture": picture, "name": text}},
        "teacher": {"model": {"encoders": {"name": {"hf": str(bert)}}, "hidden": 8}, "train": SHORT},
        "distill": {"train": SHORT, "controls": {"seeds": 1}, **distill},
        "measure": {"runs": 20, "warmup": 1, "bootstrap": 50},
        "gates": "none",
    }  # fmt: skip
    found = parsed(values)
    outcome = fold.run(found, tmp_path / "out", code=tmp_path, progress=Silent())
    assert (tmp_path / "out" / "bundle").is_dir()
    return outcome, artifact.read(tmp_path / "out" / "distill")


@pytest.mark.slow
def test_a_student_of_the_last_layer_of_its_teachers_encoder_ships(tmp_path):
    outcome, made = run(tmp_path, from_teacher={"name": [1]})
    teacher, student = outcome.report.stages[:2]
    assert student.params < teacher.params
    assert len(load.rebuild(made).encoders.name.body.network.network.encoder.layer) == 1


@pytest.mark.slow
def test_a_student_that_begins_as_a_pretrained_encoder_ships(tmp_path):
    _, made = run(tmp_path, model={"encoders": {"name": {"hf": str(tmp_path / "bert")}}, "layers": {"name": [0]}})
    assert len(load.rebuild(made).encoders.name.body.network.network.encoder.layer) == 1
