"""Retrieval goes the whole road: written digits and their names, taught, cut, quantized, exported, searched."""

import json
import shutil

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from mmedge import artifact, backends, runtime
from mmedge.backends import opened
from mmedge.contract import subsets
from mmedge.errors import MmedgeError, UsageError
from mmedge.graph.trace import noise
from mmedge.measure.quality import module_run
from mmedge.models import load
from mmedge.pipeline import fold
from mmedge.pipeline.check import check
from mmedge.progress import Silent
from mmedge.recipe import Prune
from mmedge.report.html import write_html
from mmedge.runtime.search import read_index
from mmedge.stages.prune.branches import branches_of
from mmedge.stages.prune.groups import cut, groups_of
from mmedge.stages.prune.search import kept_units
from tests.conftest import parsed
from tests.pipeline.pairs import NAMES, PIXELS, TARGETS, values_of, write_digits

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits") / "m.csv")


@pytest.fixture(scope="module")
def ran(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("retrieval") / "out"
    values = values_of(manifest)
    del values["prune"], values["gates"]["prune"]  # what is cut is looked at below, without a run's exports
    outcome = fold.run(parsed(values), out, code=out.parent, progress=Silent())
    write_html(outcome.report, out / "report.html")
    return out, outcome.report.record(), outcome.exit_code


@pytest.fixture(scope="module")
def engine(ran):
    return runtime.load(ran[0] / "bundle")


def pixels(number):
    return [float(value) for value in load_digits().data[number]]


def test_every_stage_is_judged_by_recalls_with_intervals_whole_and_of_each_tower(ran):
    out, report, code = ran
    assert code == 0, report["stages"]
    for stage in report["stages"]:
        quality = stage["quality"]
        assert quality["metric"] == "mean_recall" and quality["ci95"][0] < quality["value"] < quality["ci95"][1]
        assert set(stage["subsets"]) == {"pixels", "name", "pixels+name"}
        ways = [f"recall_at_{k}.{way}" for k in (1, 5, 10) for way in ("picture_to_text", "text_to_picture")]
        assert {"recall_at_1", "mrr", "map", *ways} <= set(quality["others"])
        assert quality["value"] == pytest.approx(np.mean([quality["others"][way] for way in ways]))
    teacher, student = (artifact.contract_of(artifact.read(out / stage)) for stage in ("teacher", "distill"))
    assert (teacher.width("embeddings"), student.width("embeddings")) == (48, 16)
    page = (out / "report.html").read_text()
    assert "recall at 5 · picture to text" in page and "cannot be seen" not in json.dumps(report["inside"])
    assert {gate["name"]: gate["outcome"] for s in report["stages"] for gate in s["gates"]} == {
        "quality": "pass",
        "subset.name": "pass",
        "others.recall_at_5.text_to_picture": "pass",
        "above_majority": "pass",
    }


@pytest.mark.parametrize("stage", ["distill", "quantize", *(f"export-{target}" for target in TARGETS)])
def test_each_stage_gives_what_torch_gives_at_any_batch(ran, stage):
    """FP32 within 1e-4 of the largest output, FP16 2e-2, INT8 half of it, as ``verification.TOLERANCES`` states."""
    out = ran[0]
    made = artifact.read(out / stage)
    expect = module_run(load.rebuild(artifact.read(out / "distill")))
    backend = stage.partition("-")[2] or "onnxruntime-cpu"
    precision = made.meta.get("precision", "fp32")
    if backends.can_run(backend) or not made.meta.get("built"):
        file = (
            next(made.path.glob("*.xml"), made.file("model.onnx"))
            if backend == "openvino-cpu"
            else made.file("model.onnx")
        )
        run = opened(file, backend if backends.can_run(backend) else "onnxruntime-cpu", host_code=True)
        relative = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.5}[precision]
        random = np.random.default_rng(0)
        for count in (1, 2, 5):
            for chosen in subsets(("pixels", "name")):
                present = np.tile([name in chosen for name in ("pixels", "name")], (count, 1))
                inputs = {
                    "pixels": random.normal(size=(count, 64)).astype(np.float32),
                    "name": random.integers(1, 20, (count, 4)),
                    "present": present,
                }
                wanted, found = expect(inputs)["embeddings"], run(inputs)["embeddings"]
                assert found.shape == (count, 16)
                assert np.abs(wanted - found).max() <= relative * max(1.0, np.abs(wanted).max())
                assert (found.reshape(count, 2, 8).any(axis=2) == present).all()
    if backend == "tensorrt-rtx":
        assert any(path.stat().st_size for path in made.path.glob("*.plan"))


def test_towers_are_cut_each_as_a_branch_and_built_again_from_what_was_cut(ran, manifest):
    made = artifact.read(ran[0] / "distill")
    module, contract = load.rebuild(made), artifact.contract_of(made)
    groups, _ = groups_of(module, contract, Prune(round_to=2))
    branches = branches_of(module, contract, groups)
    assert {"pixels", "name"} <= set(branches) and "towers.picture.0" in {
        layer for group in branches["pixels"] for layer in group.layers
    }
    history = cut(module, contract, groups, kept_units({"": groups}, {"": 0.5}, 2))
    again = load.build(load.section_of(made), contract, fresh=True)
    load.apply_history(again, history, contract)
    again.load_state_dict(module.state_dict())
    before, after = (sum(p.numel() for p in m.parameters()) for m in (load.rebuild(made), again))
    assert after < 0.7 * before
    inputs = noise(contract)
    assert torch.equal(again.eval()(**inputs)["embeddings"], module.eval()(**inputs)["embeddings"])


@pytest.mark.slow
@pytest.mark.parametrize("contrast", ["softmax", "sigmoid"])
def test_the_whole_road_with_both_losses_and_a_tower_of_two_modalities(manifest, tmp_path, contrast):
    """The upper and the lower half of a digit are one tower's: either may be absent."""
    values = values_of(manifest)
    halves = {"upper": PIXELS[:32], "lower": PIXELS[32:]}
    values["data"]["modalities"] = {
        **{name: {"kind": "tabular", "columns": columns} for name, columns in halves.items()},
        "name": values["data"]["modalities"]["name"],
    }
    values["data"]["towers"] = {"picture": ["upper", "lower"], "text": ["name"]}
    for stage, width in (("teacher", 64), ("distill", 16)):
        encoders = {name: {"widths": [width]} for name in halves}
        values[stage]["model"]["encoders"] = {**encoders, "name": {"widths": [8]}}
        values[stage]["train"] = values[stage]["train"] | {"contrast": contrast, "epochs": 12}
    values["prune"]["train"] = values["prune"]["train"] | {"contrast": contrast}
    values["distill"]["controls"] = {"seeds": 1}
    values["gates"] = "none"  # ninety test samples tell little of so short a training
    outcome = fold.run(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())
    stages = {stage["stage"]: stage for stage in outcome.report.record()["stages"]}
    assert outcome.exit_code == 0 and stages["prune"]["params"] < stages["distill"]["params"]
    for stage in ("teacher", "distill"):
        found = stages[stage]["subsets"]
        assert len(found) == 7 and min(found["upper"], found["lower"]) > 0.2
    engine = runtime.load(tmp_path / "out/bundle")
    digits = load_digits().data
    half = engine.embed(upper=digits[0][:32].tolist())
    whole = engine.embed(upper=digits[0][:32].tolist(), lower=digits[0][32:].tolist())
    assert half.shape == whole.shape == (8,) and not np.allclose(half, whole)


def test_an_app_embeds_indexes_and_searches(engine, tmp_path):
    vector = engine.embed(pixels=pixels(3))
    assert vector.shape == (8,) and np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    both = engine.embed(pixels=[pixels(3), pixels(4)], name=["three", "four"])
    assert set(both) == {"picture", "text"} and both["text"].shape == (2, 8)
    np.testing.assert_allclose(both["picture"][0], vector, atol=1e-5)

    items = [{"pixels": pixels(number)} for number in range(600, 680)]
    index = engine.index(items, tmp_path / "x", ids=[f"s{number}" for number in range(600, 680)])
    hits = engine.search(name="six", k=8)
    truth = load_digits().target
    assert len(hits) == 8 and [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert sum(truth[int(hit.id[1:])] == 6 for hit in hits) >= 4
    exact = index.vectors @ engine.embed(name="six")
    assert {hit.row for hit in hits} == set(np.argsort(-exact)[:8])
    assert engine.search(tmp_path / "x", 500, name="six")[-1].score == pytest.approx(float(exact.min()))

    small = engine.index(items, tmp_path / "y", stored="int8")
    assert small.vectors.dtype == np.int8 and 0.9 < small.kept <= 1 and index.kept is None
    near = engine.search(tmp_path / "y", 8, name="six")
    assert near[0].score == pytest.approx(hits[0].score, abs=0.02)


def test_labels_that_were_never_trained_on_are_told_by_their_texts(engine):
    truth, right = load_digits().target, 0
    for number in range(600, 640):
        found = engine.classify(list(NAMES), pixels=pixels(number))
        right += found.label == NAMES[truth[number]]
        assert sum(found.probabilities.values()) == pytest.approx(1)
    assert right >= 20  # of 40, where chance has 4


@pytest.fixture(scope="module")
def pictures_alone(ran, manifest, tmp_path_factory):
    """The bundle of the tower of pictures, with the vectors of ten names; built from what was quantized."""
    out = tmp_path_factory.mktemp("alone") / "out"
    values = values_of(manifest)
    del values["prune"]
    targets = {"onnxruntime-cpu": {"precision": "fp32"}, "openvino-cpu": {"precision": "fp32"}}
    zero_shot = {"labels": NAMES, "template": "{}"}
    values["export"] = {"targets": targets, "towers": ["picture"], "zero_shot": zero_shot}
    values["gates"] = "none"
    fold.run(parsed(values), out, code=out.parent, progress=Silent(), start=ran[0] / "quantize")
    return out / "bundle"


def test_a_tower_that_ships_alone_embeds_indexes_and_searches_what_it_sees(ran, engine, pictures_alone, tmp_path):
    whole, alone = ran[0] / "bundle/model.onnx", pictures_alone / "model.onnx"
    assert alone.stat().st_size < whole.stat().st_size and not list(pictures_alone.rglob("subsets"))
    some = [pixels(number) for number in range(600, 620)]
    for backend in ("onnxruntime-cpu", "openvino-cpu"):
        own = runtime.load(pictures_alone, backend)
        assert list(own.contract.modalities) == ["pixels"]
        # The whole one's precision is the one that was fastest.
        assert (own.embed(pixels=some) * engine.embed(pixels=some)).sum(axis=1).min() > 0.97
        with pytest.raises(UsageError, match="no modality 'name'"):
            own.embed(name="six")
    own.index([{"pixels": each} for each in some], tmp_path / "x")
    assert own.search(pixels=some[3], k=1)[0].row == 3
    with pytest.raises(UsageError, match="no modality 'name'"):
        own.search(name="six")


def test_vectors_of_declared_labels_lie_in_the_bundle_and_need_no_tower_of_texts(engine, pictures_alone, tmp_path):
    own = runtime.load(pictures_alone)
    for number in range(600, 610):
        expect = engine.classify(list(NAMES), pixels=pixels(number)).probabilities
        assert own.classify(pixels=pixels(number)).probabilities == pytest.approx(expect, abs=1e-3)
    assert set(own.classify(["six", "nine"], pixels=pixels(600)).probabilities) == {"six", "nine"}
    for labels, words in ((["six", "ten"], "no other tower of the bundle reads texts"), (["six"], "two labels")):
        with pytest.raises(UsageError, match=words):
            own.classify(labels, pixels=pixels(600))
    with pytest.raises(UsageError, match="no labels of its own"):
        engine.classify(pixels=pixels(600))
    broken = tmp_path / "broken"
    shutil.copytree(pictures_alone, broken)
    np.save(broken / "labels.npy", np.zeros((10, 8), np.float32))
    with pytest.raises(MmedgeError, match=r"labels\.npy"):
        runtime.load(broken)


def test_what_an_app_asks_in_vain_is_told(engine, made_bundle, tmp_path):
    items = [{"name": name} for name in NAMES]
    index = engine.index(items, tmp_path / "x")
    for call, words in (
        (lambda: engine.index([], tmp_path / "e"), "nothing to index"),
        (
            lambda: engine.index([{"name": "one"}, {"pixels": pixels(1)}], tmp_path / "e"),
            "item 1 is not of the tower text",
        ),
        (lambda: engine.index(items, tmp_path / "e", ids=["a"] * 10), "1 different ids"),
        (lambda: engine.search(index, sound="a.wav"), "no modality 'sound'"),
        (lambda: engine.search(index), "a query is of one tower"),
        (lambda: engine.search(index, 0, name="one"), "k is how many"),
        (lambda: engine.search(tmp_path / "none", name="one"), "no index that can be read"),
        (lambda: engine.classify(["one"], pixels=pixels(1)), "two labels"),
        (lambda: engine.classify(["one", "two"], "no place", pixels=pixels(1)), "no place for a label"),
        (lambda: engine.classify(["one", "two"], name="one"), "no other tower of the bundle reads texts"),
        (lambda: runtime.load(made_bundle).embed(image=np.zeros((8, 8), np.uint8)), "no embeddings"),
    ):
        with pytest.raises(MmedgeError, match=words):
            call()
    meta = json.loads((tmp_path / "x/index.json").read_text())
    for change, words in (({"bundle": "another"}, "of another bundle"), ({"ids": []}, "do not belong together")):
        (tmp_path / "x/index.json").write_text(json.dumps(meta | change))
        with pytest.raises(MmedgeError, match=words):
            read_index(tmp_path / "x", meta["bundle"])


def test_the_command_line_indexes_a_table_and_searches_it(ran, manifest, mmedge, tmp_path):
    bundle = ran[0] / "bundle"
    assert "say which is indexed" in mmedge("predict", bundle, manifest, "--index", tmp_path / "i").err
    said = mmedge("predict", bundle, manifest, "--index", tmp_path / "i", "--tower", "picture", "--json")
    assert said.code == 0 and json.loads(said.out) == {"index": str(tmp_path / "i"), "tower": "picture", "items": 600}
    said = mmedge(
        "predict", bundle, manifest, "--index", tmp_path / "h", "--tower", "picture", "--stored", "hnsw", "--json"
    )
    assert said.code == 0 and 0.9 < json.loads(said.out)["kept"] <= 1
    said = mmedge("predict", bundle, "--name", "four", "--index", tmp_path / "i", "--nearest", "3")
    assert said.code == 0 and len(said.out.splitlines()) == 3 and said.out.startswith("d")
    said = mmedge("predict", bundle, "--pixels", ",".join(map(str, pixels(0))), "--labels", "zero, one", "--json")
    assert set(json.loads(said.out)["probabilities"]) == {"zero", "one"}
    for words, arguments in (
        ("--stored means nothing without --index", (manifest, "--stored", "int8")),
        ("--nearest means nothing beside a table", (manifest, "--index", tmp_path / "i", "--nearest", "3")),
        ("--template means nothing without --labels", ("--name", "four", "--template", "a {}")),
    ):
        said = mmedge("predict", bundle, *arguments)
        assert (said.code, words in said.err) == (2, True)


def test_a_bundle_is_judged_on_a_table_of_pairs_and_what_towers_cannot_is_told(ran, manifest, mmedge, tmp_path):
    lines = manifest.read_text().splitlines()[:41]
    (tmp_path / "few.csv").write_text("\n".join(lines) + "\n")
    said = mmedge("evaluate", ran[0] / "bundle", tmp_path / "few.csv", "--truth", "digit", "--json")
    found = json.loads(said.out)
    assert found["quality"]["metric"] == "mean_recall" and set(found["subsets"]) == {"pixels", "name", "pixels+name"}
    ways = [found["subsets"][name]["value"] for name in ("pixels", "name")]
    assert found["quality"]["value"] == pytest.approx(np.mean(ways))
    alone = json.loads(mmedge("evaluate", ran[0] / "bundle", tmp_path / "few.csv", "--json").out)
    assert (
        alone["quality"]["value"] < found["quality"]["value"]
    )  # each row a thing of its own: ten names are four times the same
    for words, arguments in (
        ("vectors say nothing by themselves", ("explain", ran[0] / "distill", "--samples", tmp_path / "few.csv")),
        (
            "init drafts no retrieval",
            ("init", tmp_path / "few.csv", "--task", "retrieval", "--out", tmp_path / "r.yaml"),
        ),
    ):
        said = mmedge(*arguments)
        assert said.code and words in said.err, said.err


def test_a_split_smaller_than_the_places_is_told_before_anything_is_trained(manifest, tmp_path):
    values = values_of(manifest)
    values["data"] |= {"ratios": {"train": 0.97, "validation": 0.015, "test": 0.015}}
    found = check(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent()).faults
    assert {fault.kind for fault in found if fault.severity == "error"} == {"few-pairs"}
