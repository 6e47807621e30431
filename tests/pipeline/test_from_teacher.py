"""A student of its teacher's layers, from recipe to bundle; and one that begins as a pretrained encoder."""

import pytest

from mmedge import artifact
from mmedge.models import load
from mmedge.pipeline import fold
from mmedge.progress import Silent
from tests.conftest import parsed
from tests.models.pretrained import folders


@pytest.mark.slow
@pytest.mark.parametrize("named", ["from_teacher", "model"])
def test_a_student_of_one_layer_of_a_pretrained_encoder_ships(named, tmp_path):
    values = folders.values(folders.everything(tmp_path))
    values["data"]["modalities"]["name"]["tokenizer_file"] = f"{tmp_path}/bert/tokenizer.json"
    values["teacher"]["model"]["encoders"].pop("picture")
    begins = {
        "from_teacher": {"name": [1]},
        "model": {**values["teacher"]["model"], "layers": {"name": [1]}},
    }
    values["distill"] = {"train": {"epochs": 2, "batch_size": 16, "freeze": []}, "controls": {"seeds": 1}}
    values["distill"][named] = begins[named]
    outcome = fold.run(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())
    teacher, student = outcome.report.stages[:2]
    assert student.params < teacher.params and (tmp_path / "out" / "bundle").is_dir()
    made = load.rebuild(artifact.read(tmp_path / "out" / "distill"))
    assert len(made.encoders.name.body.network.network.encoder.layer) == 1
