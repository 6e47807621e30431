"""Generation goes the whole road: written digits and what they are called, taught, quantized, exported, written by the runtime."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mmedge import artifact, runtime
from mmedge.backends import opened, writing
from mmedge.measure.quality import module_run
from mmedge.models import load
from mmedge.pipeline import fold
from mmedge.profiling.rebuild import rebuild
from mmedge.progress import Silent
from mmedge.recipe import Prune
from mmedge.report.html import write_html
from mmedge.stages.prune.groups import cut, groups_of
from mmedge.stages.prune.search import kept_units
from mmedge.tasks import generation
from tests.conftest import parsed
from tests.data.made import write_table

pytestmark = pytest.mark.slow  # a run takes twenty seconds, and the quick suite has four minutes
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PIXELS = [f"p{number}" for number in range(64)]
TARGETS = {"onnxruntime-cpu": {}, "openvino-cpu": {"precision": "int8"}, "tensorrt-rtx": {"precision": "fp16"}}


def caption(digit):
    return f"an {'odd' if digit % 2 else 'even'} {NAMES[digit]}"


def values_of(manifest):
    train = {"epochs": 8, "batch_size": 16, "learning_rate": 0.01}
    return {
        "schema": 1,
        "name": "digits",
        "data": {
            "manifest": str(manifest),
            "task": "generation",
            "target": "caption",
            "id": "id",
            "text": {"length": 8, "vocabulary": 300},
            "modalities": {
                "pixels": {"kind": "tabular", "columns": PIXELS},
                "size": {"kind": "text", "length": 2, "vocabulary": 300},
            },
        },
        "teacher": {
            "model": {
                "encoders": {"pixels": {"widths": [64]}},
            },
            "train": train,
        },
        "distill": {
            "model": {
                "encoders": {"pixels": {"widths": [32]}, "size": {"widths": [8]}},
                "embedding": 32,
                "hidden": 32,
                "text_decoder": {"width": 48},
            },
            "labels": 60,
            "loss": {"logits": 0.5, "sequences": "unlabelled", "beams": 3},
            "train": train,
            "controls": {"no_distillation": False, "seeds": 1},
        },
        "quantize": {"candidates": ["fp32", "int8"], "max_drop": 1.0, "max_subset_drop": 1.0, "calibration": 40},
        "export": {"targets": TARGETS},
        "measure": {"runs": 20, "warmup": 2, "bootstrap": 100},
        "gates": {"distill": {"quality": 0.3, "others.chrf": 0.25, "subset.pixels": 0.3}},
    }


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """600 of scikit-learn's written digits, and what each is called."""
    digits = load_digits()
    rows = [["id", *PIXELS, "size", "caption"]]
    for n in range(600):
        digit = digits.target[n]
        rows.append([f"d{n}", *digits.data[n], "big" if digit > 4 else "small", caption(digit)])
    return write_table(tmp_path_factory.mktemp("digits") / "m.csv", rows)


@pytest.fixture(scope="module")
def ran(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("generation") / "out"
    outcome = fold.run(parsed(values_of(manifest)), out, code=out.parent, progress=Silent())
    write_html(outcome.report, out / "report.html")
    return out, outcome.report.record(), outcome.exit_code


@pytest.fixture
def engine(ran):
    return runtime.load(ran[0] / "bundle")


def sample(number):
    digits = load_digits()
    return {"pixels": digits.data[number].tolist(), "size": "big" if digits.target[number] > 4 else "small"}


def feed(contract, rows, seed=0):
    """Inputs as data gives them, of which some have one modality alone."""
    random = np.random.default_rng(seed)
    present = random.random((rows, 2)) > 0.3
    present[~present.any(axis=1), 0] = True
    size = np.array([[1, 0], [5, 3]])[random.integers(2, size=rows)].astype(np.int64)
    return {"pixels": random.normal(size=(rows, 64)).astype(np.float32), "size": size, "present": present}


def test_every_stage_is_judged_by_the_words_that_are_right_whole_and_with_each_subset(ran):
    out, report, code = ran
    assert code in (0, 3)  # so few samples need not prove what the guard asks
    assert {gate["outcome"] for gate in report["stages"][1]["gates"]} == {"pass"}
    for stage in report["stages"]:
        quality = stage["quality"]
        assert quality["metric"] == "rouge_l" and quality["ci95"][0] < quality["value"] < quality["ci95"][1]
        assert set(stage["subsets"]) == {"pixels", "size", "pixels+size"}
        assert {"exact_match", "token_accuracy", "bleu", "chrf", "wer", "cer"} <= set(quality["others"])
        assert set(quality["others"]) == set(quality["others_ci95"])
    page = (out / "report.html").read_text()
    assert "an odd" in page and "cannot be seen" not in json.dumps(report["inside"])


def test_the_exported_loop_writes_the_tokens_that_torch_does_whatever_the_batch_and_what_is_missing(ran):
    found = artifact.read(ran[0] / "distill")
    contract, torchs = load.contract_of(found), module_run(load.rebuild(found))
    for rows in (1, 3, 40):
        given = feed(contract, rows)
        wanted = torchs(given)["text"]
        for session in (opened(found.file("model.onnx")), opened(found.file("model.onnx"), "openvino-cpu")):
            got = session(given)["text"]
            assert (got[:, 1:] == wanted[:, 1:]).all()
            np.testing.assert_allclose(got[:, 0], wanted[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino-cpu"])
def test_engines_give_each_step_what_their_graph_does_at_any_batch(ran, target):
    """INT8 within half of the largest, as ``verification.TOLERANCES`` states."""
    found = artifact.read(ran[0] / f"export-{target}")
    engine, whole = found.meta.get("engine", {}).get("file", "model.onnx"), artifact.read(ran[0] / "distill")
    pair = writing.along(opened(whole.file("model.onnx")), opened(found.file(engine), target), "text")
    for rows in (1, 9):
        given = feed(load.contract_of(found), rows)
        one, other = (run(given)["text.likelihoods"] for run in pair)
        assert one.shape == (rows, 9) and np.abs(one - other).max() <= 0.5 * max(1, np.abs(one).max())


def test_an_engine_is_built_of_each_part_and_what_is_quantized_is_in_both(ran):
    out = ran[0]
    for target, ends in (("openvino-cpu", "xml"), ("tensorrt-rtx", "plan")):
        files = artifact.read(out / f"export-{target}").meta["engine"]["files"]
        assert {"engine.parts.json", f"engine-beginning.{ends}", f"engine-step.{ends}"} <= set(files)
        assert all((out / "bundle" / target / file).is_file() for file in files)
    graph = out / "quantize" / "int8.onnx"
    for content in writing.graphs_of(graph, writing.described(graph)):
        assert b"QuantizeLinear" in content


def test_an_app_gets_a_text_with_its_score_of_what_it_has(ran, engine):
    digits = load_digits()
    right = [engine.predict(**sample(number)).text == caption(digits.target[number]) for number in range(500, 560)]
    assert np.mean(right) > 0.3
    found = engine.predict(**sample(500))
    assert found.record() == {"text": found.text, "score": found.score, "ended": True} and found.score < 0
    whole = engine.predict(pixels=[sample(number)["pixels"] for number in (500, 501)])
    assert [one.text for one in whole] == [
        engine.predict(pixels=sample(number)["pixels"]).text for number in (500, 501)
    ]
    assert engine.predict(size="small").text.startswith("an ")
    assert "texts of up to 8 tokens" in repr(engine)


def test_the_command_line_writes_texts_and_judges_them(ran, manifest, mmedge):
    out = ran[0]
    said = mmedge("predict", out / "bundle", "--size", "small", "--json")
    assert said.code == 0 and json.loads(said.out)["text"].startswith("an ")
    assert mmedge("predict", out / "bundle", "--size", "small").out == json.loads(said.out)["text"] + "\n"
    table = out.parent / "told.csv"
    said = mmedge("predict", out / "bundle", manifest, "--out", table)
    assert said.code == 0 and {"text", "score", "ended"} <= set(table.read_text().splitlines()[0].split(","))
    said = mmedge("evaluate", out / "bundle", manifest, "--truth", "caption", "--json")
    assert said.code == 0, said.err
    quality = json.loads(said.out)["quality"]
    assert quality["metric"] == "rouge_l" and {"bleu", "cer"} <= set(quality["others"])


def test_engines_are_built_again_on_a_device(ran, tmp_path):
    import shutil

    bundle = shutil.copytree(ran[0] / "bundle", tmp_path / "bundle")
    built = rebuild(bundle, targets=["openvino-cpu"])
    assert built["openvino-cpu"].file == "engine.parts.json"
    assert runtime.load(bundle, "openvino-cpu").predict(**sample(3)).text.startswith("an ")


def test_a_pruned_network_writes_as_it_is_led(ran):
    found = artifact.read(ran[0] / "distill")
    module, contract = load.rebuild(found), load.contract_of(found)
    config = Prune(macs=0.8, round_to=2)
    groups, _ = groups_of(module, contract, config)
    before = sum(parameter.numel() for parameter in module.parameters())
    cut(module, contract, groups, kept_units({"": groups}, {"": 0.5}, 2))
    assert sum(parameter.numel() for parameter in module.parameters()) < before
    tokens = module_run(module)(feed(contract, 3))["text"]
    assert tokens.shape == (3, contract.width("text")) and (tokens[:, 1] > 0).all()


def test_teachers_texts_are_learned_where_no_label_is_shown_and_the_control_never_sees_them(ran):
    report = json.dumps(ran[1]["stages"])
    assert "60 of 420 training samples have a label that the student may see" in report
    (file,) = (ran[0] / ".work" / "teacher-outputs").glob("*-texts.npy")
    contract = artifact.contract_of(artifact.read(ran[0] / "teacher"))
    written = generation.written(np.load(file), contract.heads["text"])
    assert len(written) == 420 and np.mean([text.startswith("an ") for text in written]) > 0.9
