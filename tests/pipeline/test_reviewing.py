"""What a reviewer asks of a real run: it agrees with the run's own figures, and names samples only where it may."""

import copy
import csv

import numpy as np
import pytest

from mmedge import recipe
from mmedge.pipeline import fold as pipeline
from mmedge.progress import Silent
from tests.conftest import parsed

SHIPS = "export-onnxruntime-cpu"


def rows_of(out):
    with (out / "data/test.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_confusion_is_of_the_same_samples_as_the_accuracy(finished):
    for stage in ("teacher", SHIPS):
        record = finished.stage(stage)
        review, quality = record["review"]["logits"], record["quality"]
        cells = review["confusion"]
        assert sum(cell["n"] for cell in cells) == review["n"] == quality["n"]
        right = sum(cell["n"] for cell in cells if cell["target"] == cell["chosen"])
        assert right / review["n"] == pytest.approx(quality["value"])
        assert sum(label["n"] * label["recall"] for label in review["labels"]) == pytest.approx(right)
        assert sum(found["n"] for found in review["reliability"]["bins"]) == review["n"]
    assert "review" not in finished.stage("prune")


def test_the_teacher_and_what_ships_differ_as_their_accuracies_do(finished):
    found = finished.report["disagreements"]
    first, second = (finished.stage(found[side])["quality"] for side in ("first", "second"))
    assert (found["first"], found["second"]) == ("teacher", SHIPS)
    assert found["lost"] - found["won"] == round((first["value"] - second["value"]) * found["n"])
    assert 0 < len(found["samples"]) <= 20
    test = rows_of(finished.out)
    assert [test[record["row"] - 1]["label"] for record in found["samples"]] == [r["target"] for r in found["samples"]]
    assert all("id" not in record and "pictures" not in record for record in found["samples"])


def test_contributions_add_up_and_are_of_what_ships(finished):
    (found,) = finished.report["contributions"]
    assert found["stage"] == SHIPS and [share["modality"] for share in found["modalities"]] == ["image", "audio"]
    assert sum(s["shapley"] for s in found["modalities"]) == pytest.approx(found["whole"] - found["nothing"])


def test_the_network_that_ships_is_looked_into_and_no_sample_is_shown_unasked(finished):
    found = finished.report["inside"]
    assert (found["stage"], found["split"], found["n"]) == ("prune", "test", 20) and found["seconds"] > 0
    assert [part["place"] for part in found["embeddings"]] == ["image", "audio", "fusion"]
    rows = np.linspace(0, 59, 20).round().astype(int)  # from all over
    labels = [rows_of(finished.out)[row]["label"] for row in rows]
    for part in found["embeddings"]:
        assert part["labels"] == labels and len(part["x"]) == len(part["y"]) == 20
        assert part["alike_ci95"][0] <= part["alike"] <= part["alike_ci95"][1]
    assert found["saliency"] == [] == found["attention"]


@pytest.mark.long
def test_ids_and_pictures_are_shown_where_the_recipe_says_so(finished, tmp_path):
    out = finished.whole_copy(tmp_path / "out")
    values = copy.deepcopy(recipe.load(finished.recipe_file).resolved())
    values["report"] = {"samples": "pictures", "disagreements": 3, "explained": 20, "evidence": 2}
    outcome = pipeline.run(parsed(values), out, code=tmp_path, progress=Silent())
    report = outcome.report.record()
    inside = report["inside"]
    assert [record["row"] for record in inside["saliency"]] == [1, 60] and inside["n"] == 20
    for record in inside["saliency"]:
        assert record["id"] == rows_of(out)[record["row"] - 1]["id"] and set(record["grad_cam"]) == {"image", "audio"}
    again = pipeline.run(parsed(values), out, code=tmp_path, progress=Silent()).report.record()
    assert again["inside"] == inside  # its seconds too: nothing is computed again
    found = report["disagreements"]["samples"]
    test = rows_of(out)
    assert len(found) == 3 and [record["id"] for record in found] == [test[r["row"] - 1]["id"] for r in found]
    for record in found:
        assert set(record["pictures"]) == {"image", "audio"}
        assert all(uri.startswith("data:image/png;base64,") for uri in record["pictures"].values())
    assert {stage["status"] for stage in report["stages"]} == {"cached"}
