"""A whole dual encoder of Hugging Face as the teacher, of retrieval and of classes, from recipe to bundle."""

import pytest

from mmedge.pipeline import fold
from mmedge.progress import Silent
from tests.conftest import parsed
from tests.models.pretrained import folders


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retrieval", "classification"])
def test_a_whole_dual_encoder_teaches_in_the_space_of_both_its_towers(task, tmp_path):
    values = folders.values(folders.everything(tmp_path))
    clip = folders.clip(tmp_path / "clip")
    values["data"]["task"] = task
    if task == "retrieval":  # a pair is its own label
        del values["data"]["target"]
    values["teacher"]["model"]["encoders"] = {
        name: {"hf": str(clip), "pooling": "projected"} for name in ("picture", "name")
    }
    outcome = fold.run(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())
    teacher, student = outcome.report.stages[:2]
    assert teacher.quality is not None and student.params < teacher.params
    assert any("is frozen, and was run once for each" in note for note in teacher.notes)
    assert (tmp_path / "out" / "bundle").is_dir()
