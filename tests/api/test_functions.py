"""The functions make what the command line makes, on a user's own network and data, and their results go on and tell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

import mmedge
from mmedge import artifact
from mmedge.errors import UsageError
from mmedge.progress import Silent
from tests import small
from tests.api import digits
from tests.conftest import child_environment

QUICK = {"measure": {"runs": 20, "warmup": 1, "bootstrap": 100}}
# Chosen by no measurement of time, so that it is the same at each call.
CUT = {
    "macs": 0.5,
    "round_to": 2,
    "allocation": "uniform",
    "faster": False,
    "max_drop": 1.0,
    "max_subset_drop": 1.0,
    "train": {"epochs": 1},
}


def options(settings: dict[str, Any]) -> list[str]:
    return [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture
def command(request: pytest.FixtureRequest) -> Any:
    """The command line; its fixture is called as the package is."""
    return request.getfixturevalue("mmedge")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ONNX file and data for it."""
    folder = tmp_path_factory.mktemp("graph")
    small.write_graph(folder / "model.onnx")
    random = np.random.default_rng(0)
    image, vitals = random.normal(size=(24, 1, 8, 8)), random.normal(size=(24, 3))
    np.savez(folder / "data.npz", image=image.astype(np.float32), vitals=vitals.astype(np.float32))
    return folder


@pytest.mark.long
def test_quantizing_a_file_by_the_function_and_by_the_command_gives_the_same_bytes(graph, command, tmp_path):
    data = dict(np.load(graph / "data.npz"))
    made = mmedge.quantize(graph / "model.onnx", data, out=tmp_path / "a", progress=False, candidates=("fp32", "int8"))
    said = command(
        "quantize",
        graph / "model.onnx",
        "--data",
        graph / "data.npz",
        "--out",
        tmp_path / "b",
        "--candidates",
        "fp32,int8",
    )
    assert said.code == 0, said.err
    for name in ("fp32.onnx", "int8.onnx"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    ours, theirs = (json.loads((tmp_path / name / "report.json").read_text()) for name in "ab")
    scores = [[row["quality_validation"] for row in report["candidates"]] for report in (ours, theirs)]
    assert scores[0] == scores[1]
    assert made.figures.model_sha256 == theirs["model_sha256"] and made.onnx.is_file()
    shown = repr(made)
    for row in ours["candidates"]:
        figures = (
            f"{row['quality_validation']:.3f} [{row['ci95'][0]:.3f}, {row['ci95'][1]:.3f}], {row['p50_ms']:.3f} ms"
        )
        assert f"quantize {row['precision']}" in shown and figures in shown
    assert shown.count("; taken") == 1 and "unbeaten" in shown
    assert "<table>" in made._repr_html_() and made._repr_html_().count("<svg") == 1 and made.report().is_file()


def test_exporting_a_file_by_the_function_and_by_the_command_gives_the_same_bundle(graph, command, tmp_path):
    """Without data engines are compared on generated inputs; the shapes are those that the file has."""
    made = mmedge.export(graph / "model.onnx", tmp_path / "bundle", out=tmp_path / "a", progress=False, opset=21)
    said = command("export", graph / "model.onnx", "--out", tmp_path / "b", "--opset", "21")
    assert said.code == 0, said.err
    assert onnx.load(tmp_path / "bundle" / "model.onnx").opset_import[0].version == 21
    ours, theirs = artifact.read(tmp_path / "bundle"), artifact.read(tmp_path / "b" / "bundle")
    assert ours.files == theirs.files and ours.meta == theirs.meta
    assert ours.meta["verdict"] == "not judged" and ours.meta["data"] == "generated inputs"
    engine = mmedge.load(made.path)
    held = np.load(graph / "data.npz")
    feed = {name: held[name][:2] for name in ("image", "vitals")} | {"present": np.ones((2, 2), bool)}
    from mmedge.backends import onnxruntime_cpu

    expected = onnxruntime_cpu.session(graph / "model.onnx")(feed)["logits"]
    np.testing.assert_allclose(engine.run(feed)["logits"], expected, atol=1e-6)
    assert "onnxruntime-cpu" in repr(made) and made.figures == {}
    with pytest.raises(UsageError, match="no report"):
        made.report()


def test_a_profile_is_of_what_the_functions_return(graph, tmp_path):
    made = mmedge.profile(graph / "model.onnx", runs=20, idle_s=0, seconds=0.05, out=tmp_path, progress=False)
    assert made.figures.models[0].batches[0].compute.p50_ms > 0 and "p50" in repr(made)
    assert json.loads(made.path.read_text())["schema"] == 1
    with pytest.raises(UsageError, match="mmedge.export"):
        mmedge.profile(digits.Halves(), progress=False)


def test_a_finished_run_gives_models_to_go_on_from(finished, tmp_path):
    model = mmedge.Model.load(finished.out / "prune")
    assert model.figures.params == finished.stage("prune")["params"]
    with torch.no_grad():
        module = model.module
    assert model.onnx.is_file() and sum(x.numel() for x in module.parameters()) == model.figures.params
    assert "parameters" in repr(model) and model.save(tmp_path / "copy").is_dir()
    with pytest.raises(UsageError, match="something already"):
        model.save(tmp_path / "copy")


def test_run_takes_a_recipe_file_and_a_mapping_and_takes_what_is_unchanged(finished, tmp_path, values):
    out = finished.whole_copy(tmp_path / "out")
    found = mmedge.run(values, out, progress=False)
    assert {stage.status for stage in found.figures.stages} == {"cached"} and found.verdict == "not judged"
    assert found.bundle.path.is_dir() and found.model("distill").figures.quality.n == 60
    assert "distill" in repr(found) and found.report() == out / "report.html"
    shown, precisions = repr(found), found.figures.stages[3].candidates
    assert all(f"quantize {row.precision} " in shown for row in precisions) and found._repr_html_().count("<svg") == 1
    quantized = repr(found.model("quantize"))
    assert all(f"quantize {row.precision} " in quantized for row in precisions) and "distill" not in quantized
    with pytest.raises(UsageError, match="no stage 'distil'"):
        found.model("distil")


def test_a_setting_that_does_not_exist_is_told_with_a_near_one(graph, tmp_path):
    with pytest.raises(UsageError, match=r"mmedge\.prune: unknown key 'prune\.max_drp' \(did you mean 'max_drop'"):
        mmedge.prune(digits.trained(), digits.arrays(), out=tmp_path, progress=False, max_drp=1)
    with pytest.raises(UsageError, match="did you mean 'max_drop'"):
        mmedge.quantize(graph / "model.onnx", graph / "data.npz", out=tmp_path / "q", progress=False, max_drp=1)
    with pytest.raises(UsageError, match="did you mean 'dtype'"):
        mmedge.export(graph / "model.onnx", tmp_path / "b", progress=False, dtypes="fp16")
    with pytest.raises(UsageError, match="data is missing"):
        mmedge.prune(digits.trained(), out=tmp_path, progress=False)
    with pytest.raises(UsageError, match=r"shapes=\{'upper': \(1, 28, 28\)\}"):
        mmedge.export(digits.trained(), tmp_path / "b", out=tmp_path, progress=False)


class Kept(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.slow
def test_a_module_is_taken_as_it_is_and_loaded_in_another_process_with_what_builds_it(tmp_path):
    """What was done to a copy of it is said; the caller's own stays in training mode, compiled, with its hook."""
    held = {name: torch.from_numpy(digits.arrays()[name][:3]) for name in ("upper", "lower")}
    shapes = dict.fromkeys(held, (1, 4, 8))
    module, progress, seen = digits.trained(), Kept(), []
    expected = module(**held).detach()
    module.train().head.register_forward_hook(lambda *_: seen.append(1))
    mmedge.export(torch.compile(module), tmp_path / "bundle", shapes=shapes, out=tmp_path / "out", progress=progress)
    told = [line for line in progress.lines if line.startswith("model: ")]
    assert len(told) == 3 and "torch.compile" in told[0] and "hooks of head" in told[1] and "training mode" in told[2]
    assert module.training and not seen and module.head._forward_hooks
    code = (
        "import sys, torch, mmedge\nfrom mmedge.errors import UsageError\nfrom tests.api import digits\n"
        "held = {name: torch.from_numpy(digits.arrays()[name][:3]) for name in ('upper', 'lower')}\n"
        "try:\n    mmedge.Model.load(sys.argv[1]).module\nexcept UsageError as error:\n    print(error.todo)\n"
        "made = mmedge.Model.load(sys.argv[1], factory=digits.Halves)\n"
        "torch.save(made.module(**held).detach(), sys.argv[2])"
    )
    arguments = [sys.executable, "-c", code, tmp_path / "out" / "teacher", tmp_path / "outputs.pt"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=child_environment())
    assert done.returncode == 0, done.stderr
    assert "Model.load(folder, factory=" in done.stdout, "what it is told without one"
    assert torch.equal(torch.load(tmp_path / "outputs.pt", weights_only=True), expected)


def test_accuracy_that_nothing_can_judge_is_told(graph, tmp_path):
    with pytest.raises(UsageError, match="label") as caught:
        mmedge.quantize(graph / "model.onnx", graph / "data.npz", judge="accuracy", out=tmp_path, progress=False)
    assert caught.value.todo


def test_importing_mmedge_imports_nothing_heavy_and_help_is_a_page():
    code = (
        "import sys, mmedge; heavy = {'numpy', 'torch', 'pydantic', 'onnxruntime', 'mmedge.api'} & set(sys.modules);"
        "assert not heavy, heavy; import pydoc; print(pydoc.render_doc(mmedge, renderer=pydoc.plaintext))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=child_environment(), check=True
    )
    for word in ("mmedge.prune(model, loader)", "distill(student", "export(model", "quantize(model", "samples("):
        assert word in said.stdout
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        mmedge.prun  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "settings", "stage", "files"),
    [
        ("prune", CUT, "prune", ("weights.safetensors", "model.onnx", "pruning.json")),
        (
            "quantize",
            {"candidates": ["fp32", "fp16", "int8"], "qat": "never", "require": "int8", "max_drop": 1.0, "max_subset_drop": 1.0},
            "quantize",
            ("model.onnx", "fp32.onnx", "fp16.onnx", "int8.onnx"),
        ),
        ("export", {}, "bundle", ("model.onnx", "openvino-cpu/engine.xml", "openvino-cpu/engine.bin")),
    ],
)  # fmt: skip
def test_a_verb_by_the_function_and_by_the_command_gives_the_same_bytes(
    verb, settings, stage, files, command, tmp_path, monkeypatch
):
    """Of an ``nn.Module`` and arrays, and of the same by their names: module:factory, its weights and an .npz."""
    (tmp_path / "my_net.py").write_text("from tests.api.digits import Halves\n\ndef build():\n    return Halves()\n")
    monkeypatch.chdir(tmp_path)
    save_file(digits.trained_weights(), tmp_path / "w.safetensors")
    np.savez(tmp_path / "d.npz", **digits.arrays())
    given = {"backends": ["openvino-cpu"], "path": tmp_path / "a" / "bundle"} if verb == "export" else settings
    call = getattr(mmedge, verb)
    made = call(digits.trained(), data=digits.arrays(), out=tmp_path / "a", progress=False, **given, **QUICK)
    typed = (
        ["--backend", "openvino-cpu"]
        if verb == "export"
        else options({f"{verb}.{key}": x for key, x in settings.items()})
    )
    said = command(
        verb, "my_net:build", "--weights", "w.safetensors", "--data", "d.npz", "--out", tmp_path / "b",
        *typed, *options(QUICK),
    )  # fmt: skip
    assert said.code == made.exit_code, said.err
    for name in files:
        assert (tmp_path / "a" / stage / name).read_bytes() == (tmp_path / "b" / stage / name).read_bytes(), name
    if verb == "prune":
        assert made.module.upper[0].out_channels < 16, "the caller's own class, narrowed"
        assert digits.trained().upper[0].out_channels == 16


@pytest.mark.slow
def test_from_a_trained_network_to_a_bundle_in_a_few_calls(tmp_path):
    small_net = mmedge.distill(
        digits.Halves(6), digits.trained(), digits.arrays(), out=tmp_path / "d", progress=False,
        train={"epochs": 2}, controls={"seeds": 1}, **QUICK,
    )  # fmt: skip
    cut = mmedge.prune(small_net, out=tmp_path / "p", progress=False, **CUT)
    quick = mmedge.quantize(
        cut, digits.arrays(), out=tmp_path / "q", progress=False, candidates=("fp32", "int8"), qat="never"
    )
    bundle = mmedge.export(quick, tmp_path / "bundle", backends=["openvino-cpu"], progress=False)
    assert set(bundle.figures) == {"onnxruntime-cpu", "openvino-cpu"}
    engine = bundle.load()
    held = digits.arrays()
    assert engine.predict(upper=held["upper"][0], lower=held["lower"][0]).label in map(str, range(10))
    alone = mmedge.load(tmp_path / "bundle", "openvino-cpu").predict(upper=held["upper"][0])
    assert alone.label in map(str, range(10)), "an absent input is what the training data has on average"
    with torch.no_grad():
        module = cut.module(torch.from_numpy(held["upper"][:2]), torch.from_numpy(held["lower"][:2]))
    assert module.shape == (2, 10)


@pytest.mark.slow
def test_the_python_lines_of_the_readme_run(monkeypatch, tmp_path, capsys):
    from tests.conftest import REPOSITORY
    from tests.readme_commands import python_blocks

    block = next(block for block in python_blocks((REPOSITORY / "README.md").read_text()) if "mmedge.prune" in block)
    monkeypatch.syspath_prepend(REPOSITORY)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert "openvino-cpu" in capsys.readouterr().out and (tmp_path / "runs/own-python/bundle/manifest.json").is_file()


@pytest.mark.slow
def test_a_hugging_face_dataset_and_a_frame_go_all_the_way(tmp_path):
    from tests.api.test_data import hugging_face

    made = mmedge.quantize(
        digits.trained(),
        hugging_face(),
        out=tmp_path / "hf",
        progress=False,
        candidates=("fp32", "fp16"),
        prefer="size",
        max_drop=0.5,  # a smaller one can be proved on the few samples of this test
        max_subset_drop=0.5,
        **QUICK,
    )
    assert made.figures.precision == "fp16" and made.figures.quality.value > 0.6
    import pandas

    pixels = np.concatenate([digits.arrays()["upper"], digits.arrays()["lower"]], 3).reshape(-1, 64)
    frame = pandas.DataFrame({**{f"p{at}": pixels[:, at] for at in range(64)}, "label": digits.arrays()["label"]})
    bundle = mmedge.export(torch.nn.Linear(64, 10), tmp_path / "bundle", frame, progress=False, **QUICK)
    assert bundle.load().predict(input=pixels[0]).label in map(str, range(10))


@pytest.mark.slow
def test_a_hugging_face_model_takes_token_ids_and_a_mask(tmp_path):
    """A BERT of random weights; a digit's grey values, which are whole numbers from 0 to 16, are its words."""
    transformers = pytest.importorskip("transformers")
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=17, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, num_labels=10,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    found = load_digits()
    ids = found.data[:200].astype(np.int64)
    data = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "labels": found.target[:200]}
    bundle = mmedge.export(model, tmp_path / "bundle", data, progress=False, gates="none", **QUICK)
    engine = bundle.load()
    feed = {name: data[name][:3] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(x) for name, x in feed.items()}).logits.numpy()
    given = engine.run({**feed, "present": np.ones((3, 2), bool)})["logits"]
    np.testing.assert_allclose(given, expected, atol=1e-4)
    assert engine.predict(input_ids=ids[0], attention_mask=feed["attention_mask"][0]).label in map(str, range(10))


def test_the_package_offers_what_its_functions_module_has_and_its_stub_names_the_same():
    from mmedge import api

    stub = Path(mmedge.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    assert [*mmedge._PUBLIC] == api.__all__ == re.findall(r"^from mmedge\.api import \w+ as (\w+)$", stub, flags=re.M)
