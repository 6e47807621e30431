"""What a model is explained by holds of that model: values add up, evidence meets the output, files of outputs are refused."""

import csv
import json

import numpy as np
import pytest
import torch

from mmedge import artifact
from mmedge.data.outputs import OUTPUTS_FILE
from mmedge.measure import saliency
from mmedge.measure.places import places_of
from mmedge.models.load import rebuild
from mmedge.spec import AudioSpec, ImageSpec


def explained(mmedge, out, *arguments):
    said = mmedge("explain", *arguments, "--out", out, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found == json.loads((out / "explanation.json").read_text())
    return found, (out / "explanation.html").read_text()


def test_a_student_is_explained_by_modality_by_place_and_by_features(finished, mmedge, tmp_path):
    found, page = explained(
        mmedge, tmp_path / "e", finished.out / "distill", "--samples", finished.out / "data/test.csv", "--pictures", 2
    )
    (whole,) = found["contributions"]
    assert whole["n"] == 60 and found["targets"] == "labels" and found["notes"] == []
    for one in found["each"]:
        assert set(one["shapley"]) == {"image", "audio"}
    mean = np.mean([[one["shapley"][name] for name in ("image", "audio")] for one in found["each"]], axis=0)
    assert mean == pytest.approx([share["shapley"] for share in whole["modalities"]])
    assert mean.sum() == pytest.approx(whole["whole"] - whole["nothing"])
    assert len(found["saliency"]) == 2
    for one in found["saliency"]:
        assert set(one["pictures"]) == {"image", "audio"} and sum(one["shares"].values()) == pytest.approx(1)
        assert set(one["grad_cam"]) == {"image", "audio"}
        assert one["gap"] < 0.01
    assert [place["place"] for place in found["embeddings"]] == ["image", "audio", "fusion"]
    assert all(len(place["x"]) == len(place["labels"]) == 60 for place in found["embeddings"])
    assert page.count("<svg") == 4 and page.count("data:image/png;base64,") == 8
    with (finished.out / "data/test.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert all(rows[one["row"] - 1]["id"] == one["id"] for one in found["each"])
    assert all(rows[one["row"] - 1]["label"] == one["target"] for one in found["each"])


def test_a_bundle_has_contributions_and_says_what_it_lacks(finished, mmedge, tmp_path):
    table = tmp_path / "t.csv"
    with (finished.out / "data/test.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[3]["audio"] = ""
    with table.open("w", newline="") as stream:  # without labels: what the model gives stands for them
        writer = csv.DictWriter(stream, ["image", "audio"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[:12])
    found, _ = explained(mmedge, tmp_path / "e", finished.out / "bundle", "--samples", table)
    assert found["targets"] == "outputs" and found["contributions"][0]["n"] == 11 and found["saliency"] == []
    assert all(one["target"] == one["given"] for one in found["each"])
    assert "1 of 12 rows lack a modality" in found["notes"][0] and "an engine has no gradients" in found["notes"][1]


def test_a_file_of_outputs_has_no_network_to_explain(finished, mmedge, tmp_path):
    with artifact.creating(tmp_path / "teacher", stage="teacher", key="k", parent=None) as (folder, meta):
        np.savez(folder / OUTPUTS_FILE, logits=np.zeros((1, 10)))
        meta["contract"] = finished.artifact("teacher").meta["contract"]
    said = mmedge("explain", tmp_path / "teacher", "--samples", finished.out / "data/test.csv")
    assert said.code == 2 and "a file of outputs: there is no network in it to explain" in said.err


def test_a_table_without_the_models_columns_or_truth_is_told(finished, mmedge, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    said = mmedge("explain", finished.out / "distill", "--samples", tmp_path / "t.csv")
    assert said.code == 1 and "no row of the table has any of the model's modalities" in said.err
    said = mmedge("explain", finished.out / "distill", "--samples", finished.out / "data/test.csv", "--truth", "moood")
    assert said.code == 2 and "no column 'moood'" in said.err


def test_evidence_adds_up_to_what_the_inputs_change(finished, dataset):
    """Completeness, the axiom of integrated gradients, against the network itself; and an absent modality has none."""
    found = finished.artifact("distill")
    module, contract = rebuild(found), artifact.contract_of(found)
    inputs = {name: np.array(x[:1]) for name, x in dataset.test.inputs.items()}
    for present in ([[True, True]], [[True, False]]):
        there = np.array(present)
        question = saliency.Question(contract, inputs, there, "logits", 3)
        evidence, gap = saliency.integrated_gradients(module, question)
        with torch.no_grad():
            mask = torch.from_numpy(there)
            ends = [
                module(**{name: torch.from_numpy(x) * scale for name, x in inputs.items()}, present=mask)["logits"][
                    0, 3
                ]
                for scale in (1, 0)
            ]
        change = float(ends[0] - ends[1])
        assert sum(x.sum() for x in evidence.values()) == pytest.approx(change, abs=0.02 * max(1, abs(change)))
        assert gap < 0.02
    assert np.abs(evidence["audio"]).sum() == 0 < np.abs(evidence["image"]).sum()


def test_grad_cam_is_the_map_weighed_by_its_mean_gradients(finished, dataset):
    """Selvaraju et al. 2017, equations 1 and 2, written out by hooks of torch."""
    found = finished.artifact("distill")
    module, contract = rebuild(found), artifact.contract_of(found)
    inputs = {name: np.array(x[:1]) for name, x in dataset.test.inputs.items()}
    place = places_of(module, contract, "logits").maps["image"]
    assert place.layer == "encoders.image.features"
    kept = []
    hook = module.get_submodule(place.layer).register_forward_hook(lambda _, given, output: kept.append(output))
    mask = torch.ones(1, 2, dtype=torch.bool)
    output = module(**{name: torch.from_numpy(x) for name, x in inputs.items()}, present=mask)["logits"][0, 3]
    hook.remove()
    (gradient,) = torch.autograd.grad(output, kept[0])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    wanted = torch.relu((weights * kept[0]).sum(dim=1, keepdim=True)).detach()
    wanted = torch.nn.functional.interpolate(wanted, (28, 28), mode="bilinear").numpy()
    question = saliency.Question(contract, inputs, mask.numpy(), "logits", 3)
    assert saliency.grad_cam(module, question, place.layer, (28, 28)) == pytest.approx(wanted, abs=1e-6)


def test_a_picture_is_red_where_evidence_is_for_and_blue_where_against():
    import base64
    import io

    from PIL import Image

    spec = ImageSpec(kind="image", height=4, width=4, channels=1, mean=[0], std=[1])
    evidence = np.zeros((1, 4, 4), np.float32)
    evidence[0, 0, 0], evidence[0, 3, 3] = 1, -1
    uri = saliency.overlay(spec, np.zeros((1, 4, 4), np.float32), evidence)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).astype(int)
    (red, _, blue), (r, _, b) = pixels[0, 0], pixels[-1, -1]
    assert red > blue + 100 and b > r + 100
    sound = AudioSpec(
        kind="audio", sample_rate=8000, mels=4, frames=4, hop_ms=16, window_ms=32, mean=[0] * 4, std=[1] * 4
    )
    assert saliency.overlay(sound, np.zeros((1, 4, 4), np.float32), evidence) is not None
