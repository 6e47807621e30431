"""Fusions that a run treats in a way of their own: weights fitted after training, stacked inputs, several networks."""

import pytest
import torch

from mmedge import artifact
from mmedge.measure.cost import params
from mmedge.models import load
from mmedge.models.ensemble import members_of
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


@pytest.mark.slow
def test_an_ensemble_teaches_as_one_and_is_built_again_from_its_artifact(values, tmp_path):
    values["teacher"]["model"]["ensemble"] = 2
    values["export"] = {"targets": {"onnxruntime-cpu": {}}}
    short = {name: part for name, part in values.items() if name not in ("prune", "quantize")}
    outcome = fold.run(parsed(short), tmp_path / "out", code=tmp_path, progress=Silent())
    teacher = artifact.read(tmp_path / "out" / "teacher")
    each = members_of(load.rebuild(teacher))
    assert len(each) == 2 and not torch.equal(each[0].fusion[0].weight, each[1].fusion[0].weight)
    assert len((teacher.path / "training.csv").read_text().splitlines()) == 1 + 2 * 2
    assert outcome.report.stages[0].params == sum(params(one) for one in each)
