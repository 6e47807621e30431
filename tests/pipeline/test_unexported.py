"""A teacher that cannot be exported teaches all the same, and is measured in PyTorch."""

from __future__ import annotations

import pytest

from mmedge.errors import MmedgeError
from mmedge.pipeline import fold as pipeline
from mmedge.pipeline.check import check
from mmedge.progress import Silent
from tests.conftest import parsed

THEIRS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.see, self.hear, self.out = nn.Linear(784, 12), nn.Linear(384, 12), nn.Linear(24, 10)

    def forward(self, image, audio):
        seen = self.see(image.flatten(1))
        if seen.abs().sum() > 1e9:  # what an export cannot decide
            seen = seen / 2
        return self.out(torch.relu(torch.cat([seen, self.hear(audio.flatten(1))], 1)))
"""


@pytest.fixture
def theirs(values, tmp_path):
    """``theirs(export)``: the tiny recipe with such a teacher."""
    (tmp_path / "unexportable.py").write_text(THEIRS)

    def recipe(export):
        values["teacher"] = {
            "model": {"factory": "unexportable:Net"},
            "train": {"epochs": 1, "batch_size": 32},
            "export": export,
        }
        values["distill"]["loss"] = {}
        values["distill"]["train"] = {"epochs": 1, "batch_size": 32}
        rest = {"prune": None, "quantize": {"candidates": ["fp32"]}, "export": {"targets": {"onnxruntime-cpu": {}}}}
        return parsed({**values, **rest})

    return recipe


@pytest.mark.long
def test_it_is_told_before_training_with_the_way_out(theirs, tmp_path, finished):
    card = check(theirs(True), tmp_path / "out", code=tmp_path, progress=Silent(), media=False).record()
    (fault,) = (fault for fault in card["faults"] if fault["kind"] == "export")
    assert "data-dependent" in fault["what"] and "Net, unexportable.py:" in fault["module"]
    assert "teacher.export: false" in fault["todo"]
    with pytest.raises(MmedgeError, match="data-dependent"):
        pipeline.run(theirs(True), finished.copied(tmp_path / "out"), code=tmp_path, progress=Silent())
    assert not (tmp_path / "out" / "teacher").exists()


@pytest.mark.long
def test_it_teaches_and_is_measured_in_pytorch_where_the_recipe_does_not_export_it(theirs, tmp_path, finished):
    recipe = theirs(False)
    card = check(recipe, tmp_path / "out", code=tmp_path, progress=Silent(), media=False).record()
    assert "export" not in [fault["kind"] for fault in card["faults"]]
    outcome = pipeline.run(recipe, finished.copied(tmp_path / "out"), code=tmp_path, progress=Silent())
    teacher, student = outcome.report.record()["stages"][:2]
    assert not (tmp_path / "out" / "teacher" / "model.onnx").exists()
    assert 0 <= teacher["quality"]["value"] <= 1 and set(teacher["subsets"]) == {"image", "audio", "image+audio"}
    assert teacher["latency"]["target"] == "pytorch" and student["latency"]["target"] == "onnxruntime-cpu"
    assert student["latency"]["ratio_to_teacher"] > 0 and teacher["size_bytes"] > 4 * teacher["params"]
    assert any("not exported" in note for note in teacher["notes"])
