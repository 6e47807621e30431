"""Fusions that a run treats in a way of their own: weights fitted after training, and inputs that are stacked."""

import pytest

from mmedge.pipeline import fold
from mmedge.progress import Silent
from tests.conftest import parsed


@pytest.mark.slow
def test_a_teacher_by_stacking_and_a_student_of_stacked_inputs_go_the_whole_road(values, tmp_path):
    values["data"]["modalities"]["audio"] |= {"mels": 28, "frames": 28}
    values["teacher"]["model"]["fusion"], values["distill"]["model"]["fusion"] = "stacking", "early"
    values["export"] = {"targets": {"onnxruntime-cpu": {}}}
    outcome = fold.run(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())
    teacher, student = outcome.report.stages[:2]
    assert any("fitted on 50 validation samples: image" in note for note in teacher.notes)
    assert set(student.subsets) == {"image", "audio", "image+audio"}
    assert (tmp_path / "out" / "bundle").is_dir()
