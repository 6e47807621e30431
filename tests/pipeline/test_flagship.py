"""recipes/emoji-pretrained.yaml from check to the bundle, on tiny networks of random weights."""

import csv

import pytest
from safetensors.torch import save_file

from mmedge import recipe
from mmedge.models.pretrained.efficientnet import EfficientNetLite
from mmedge.pipeline import check, fold
from mmedge.progress import Silent
from tests.conftest import REPOSITORY
from tests.models.pretrained import folders

SIDE = 32


@pytest.mark.slow
def test_the_recipe_of_the_pretrained_teacher_runs_as_it_is(tmp_path):
    folders.bert(tmp_path / "bert")
    save_file(EfficientNetLite((SIDE, SIDE)).state_dict(), tmp_path / "lite.safetensors")
    table = folders.table(tmp_path)
    rows = list(csv.reader(table.open()))
    rows += [[f"word {n}", "", "apple pear", "", "train"] for n in range(40)]
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    size = f"{{kind: image, height: {SIDE}, width: {SIDE}, mean: [0.498], std: [0.502]}}"
    changes = (
        f"data.manifest={table}",
        "data.target=label",
        f"teacher.model.encoders.picture.weights={tmp_path}/lite.safetensors",
        f"teacher.model.encoders.name.hf={tmp_path}/bert",
        f"teacher.preprocessing.picture={size}",
        "teacher.train.epochs=3",
        "distill.labels=16",
        "distill.train.epochs=2",
        "data.modalities.name.length=8",
        "measure.runs=20",
        "gates=none",
    )
    found = recipe.load(REPOSITORY / "recipes" / "emoji-pretrained.yaml", changes)
    card = check.check(found, tmp_path / "run", code=tmp_path, progress=Silent())
    assert not [fault.what for fault in card.faults if fault.severity == "error"]
    outcome = fold.run(found, tmp_path / "run", code=tmp_path, progress=Silent())
    teacher, student = outcome.report.stages[:2]
    assert any("is frozen, and was run once for each" in note for note in teacher.notes)
    assert student.params * 10 < teacher.params and (tmp_path / "run" / "bundle").is_dir()
