"""Export on a small graph that needs no training: targets, per-subset and split engines."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mmedge import artifact, backends, runtime
from mmedge import bundle as bundles
from mmedge.backends import onnxruntime_cpu
from mmedge.backends.onnxfile import read_nodes
from mmedge.errors import MismatchError, UsageError
from mmedge.graph import precision, weights
from mmedge.profiling.rebuild import rebuild
from mmedge.progress import Silent
from mmedge.recipe import Export, Measure, Quantize
from mmedge.stages import export
from mmedge.stages.export import parts, verification
from mmedge.training.context import Context
from tests.conftest import staged
from tests.heads import samples as made_samples
from tests.small import CONTRACT, write_graph

DESCRIBED = {
    "contract": CONTRACT.model_dump(mode="json", by_alias=True),
    "params": 1,
    "macs": 1,
    "recipe": {},
    "code": ".",
}

CANDIDATE = {
    "quality_validation": 1.0, "n": 24, "drop": 0.0, "drop_ci95": [0.0, 0.0], "p50_ms": 0.1, "ratio_to_fp32": 1.0,
    "size_bytes": 1, "kept": True, "why": "kept",
}  # fmt: skip


@pytest.fixture
def parent(tmp_path):
    """A quantize artifact with two candidates."""
    with artifact.creating(tmp_path / "quantize", stage="quantize", key="k", parent=None) as (folder, meta):
        for name in ("model.onnx", "fp32.onnx"):
            write_graph(folder / name, channels=96)
        precision.to_fp16(folder / "fp32.onnx", folder / "fp16.onnx")
        kept = [{"precision": name, **CANDIDATE} for name in ("fp32", "fp16")]
        meta |= {**DESCRIBED, "candidates": kept, "precision": "fp32", "notes": []}
    return artifact.read(tmp_path / "quantize")


@pytest.fixture
def context(tmp_path):
    random, n = np.random.default_rng(0), 24
    inputs = {
        name: random.standard_normal((n, *spec.shape)).astype(np.float32) for name, spec in CONTRACT.modalities.items()
    }
    ids = tuple(map(str, range(n)))
    test = made_samples("test", ids, inputs, np.ones((n, 2), bool), np.zeros(n, np.int64), np.arange(n))
    recipe = SimpleNamespace(
        export=Export(per_subset=True, split=True),
        measure=Measure(runs=60, warmup=5),
        quantize=None,
        prefer="latency",
        judging=SimpleNamespace(policy="point", confidence=0.95),
    )
    return Context(recipe, SimpleNamespace(contract=CONTRACT, test=test, validation=test), tmp_path, tmp_path, Silent())


def exported(parent, context, name, tmp_path, unheeded=(), **options):
    context = replace(context, part=name)
    options = backends.find(name).options(**options).leaving(unheeded)
    return staged(export.export, parent, options, context, tmp_path / f"export-{name}")


def bundled(*made: artifact.Artifact, path: Path) -> Path:
    with artifact.creating(path, stage="bundle", key="b", parent=None) as (folder, meta):
        for one in made:
            for source, target in export.files(one):
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(one.file(source), folder / target)
        targets = {one.meta["target"]: export.entry(one).record() for one in made}
        meta |= {"name": "small", "contract": DESCRIBED["contract"], "targets": targets, "figures": {}}
    return path


def test_the_engine_of_one_modality_is_cut_verified_and_faster(parent, context, tmp_path):
    made = exported(parent, context, "onnxruntime-cpu", tmp_path)
    # The picture's encoder is nearly all of the work; without it there is nearly nothing left.
    assert made.meta["subsets"]["vitals"]["ratio_to_all"] < 1 / 1.3
    assert any("engine for vitals alone: " in note for note in made.meta["notes"])
    assert set(made.meta["split"]["files"]) == {"image", "vitals", "fusion"}
    engine = runtime.load(bundled(made, path=tmp_path / "bundle"))
    x = context.dataset.test.inputs["vitals"][:3]
    zeros = np.zeros((3, 1, 8, 8), np.float32)
    whole = engine.run({"image": zeros, "vitals": x, "present": np.tile([False, True], (3, 1))})["logits"]
    np.testing.assert_allclose(engine.run({"vitals": x})["logits"], whole, atol=1e-6)


def test_an_engine_that_is_not_faster_is_left_out_with_a_note(parent, context, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "NOISE", 1.0)
    made = exported(parent, context, "onnxruntime-cpu", tmp_path, unheeded=["workspace_mb"])
    assert made.meta["notes"][0] == "'workspace_mb' is no option of onnxruntime-cpu, and is not heeded"
    assert made.meta["subsets"] == {}
    assert sum("no engine for" in note for note in made.meta["notes"]) == 2
    assert not list(made.path.glob("subsets/*.onnx"))


@pytest.mark.long
def test_openvino_is_built_measured_and_judged_on_itself(parent, context, tmp_path):
    pytest.importorskip("openvino")
    made = exported(parent, context, "openvino-cpu", tmp_path)
    latency = made.meta["latency"]
    assert latency["target"] == "openvino-cpu" and latency["p50_ms"] > 0 and latency["ratio_to_parent"] > 0
    assert {one["subset"] for one in made.meta["verification"]} == {"image", "vitals", "image+vitals"}
    assert made.meta["engine"]["files"] == ["engine.xml", "engine.bin"]
    assert any(" x the latency of " in note for note in made.meta["notes"])
    assert export.measured_file(made) == (made.file("engine.xml"), "openvino-cpu")
    path = bundled(exported(parent, context, "onnxruntime-cpu", tmp_path), made, path=tmp_path / "bundle")
    sample = {"vitals": [1.0, 2.0, 3.0], "image": np.full((8, 8), 90, np.uint8)}
    ours, theirs = runtime.load(path, "openvino-cpu"), runtime.load(path)
    assert ours.predict(**sample).probabilities == pytest.approx(theirs.predict(**sample).probabilities, abs=1e-3)


@pytest.mark.long
def test_a_candidate_is_judged_on_the_backend_itself_whatever_onnx_runtime_found(parent, context, tmp_path):
    """One that is wrong there goes, though ONNX Runtime kept it; one that is right there may be taken, though it did not."""
    pytest.importorskip("openvino")
    model = onnx.load(parent.file("fp32.onnx"))
    weights = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
    onnx.save(model, parent.path / "int8-weights.onnx")
    right = onnxruntime_cpu.session(parent.file("fp32.onnx"))
    test = context.dataset.test
    labels = right({**test.inputs, "present": test.present})["logits"].argmax(axis=1)
    judged = replace(test, targets=dict.fromkeys(test.targets, labels))
    recipe = SimpleNamespace(**{**vars(context.recipe), "prefer": "size"})
    context = replace(
        context, recipe=recipe, dataset=SimpleNamespace(contract=CONTRACT, test=judged, validation=judged)
    )
    candidates = [
        {"precision": "fp32", **CANDIDATE, "size_bytes": 4},
        {"precision": "fp16", **CANDIDATE, "size_bytes": 2, "kept": False},
        {"precision": "int8-weights", **CANDIDATE},
    ]
    made = exported(replace(parent, meta={**parent.meta, "candidates": candidates}), context, "openvino-cpu", tmp_path)
    assert made.meta["candidate"] == "fp16"
    assert any("int8-weights: dropped on openvino-cpu: it loses" in note for note in made.meta["notes"])


def test_a_mismatch_names_the_first_node_and_is_exit_5(parent, context, tmp_path):
    model = onnx.load(parent.file("fp32.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == "conv2":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(2), "conv2"))
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(MismatchError, match=r"first node that differs: conv_2 \(Conv\)") as raised:
        export.verify(parent.file("fp32.onnx"), tmp_path / "wrong.onnx", CONTRACT, context.dataset.test, "fp32")
    assert raised.value.exit_code == 5


def test_a_precision_that_nobody_asked_for_gives_way_to_fp32_where_it_differs(parent, context, tmp_path, monkeypatch):
    monkeypatch.setitem(verification.TOLERANCES, "fp16", (0.0, 1.01))  # no two graphs are so alike
    chosen = replace(parent, meta={**parent.meta, "precision": "fp16"})
    made = exported(chosen, context, "onnxruntime-cpu", tmp_path)
    assert made.meta["precision"] == "fp32" and made.meta["candidate"] == "fp32"
    (note,) = (note for note in made.meta["notes"] if "not taken" in note)
    assert note.startswith("fp16 is not taken: the fp16 graph differs from its parent in 'logits'")
    assert not any("as the recipe asks" in note for note in made.meta["notes"])
    with pytest.raises(MismatchError, match="the fp16 graph differs"):
        exported(chosen, context, "onnxruntime-cpu", tmp_path / "asked", precision="fp16")
    wanted = replace(context, recipe=SimpleNamespace(**vars(context.recipe) | {"quantize": Quantize(require="fp16")}))
    with pytest.raises(MismatchError, match="the fp16 graph differs"):
        exported(chosen, wanted, "onnxruntime-cpu", tmp_path / "required")
    stop = replace(context, recipe=SimpleNamespace(**vars(context.recipe) | {"export": Export(on_miss="stop")}))
    with pytest.raises(MismatchError, match="the fp16 graph differs") as raised:
        exported(chosen, stop, "onnxruntime-cpu", tmp_path / "stopped")
    assert raised.value.exit_code == 5


@pytest.mark.parametrize(("policy", "taken"), [("try-next", "int8-weights"), ("keep-parent", "fp32")])
def test_where_a_precision_differs_the_next_that_was_kept_follows_or_the_parents(
    parent, context, tmp_path, monkeypatch, policy, taken
):
    monkeypatch.setitem(verification.TOLERANCES, "fp16", (0.0, 1.01))
    weights.weights_only(parent.file("fp32.onnx"), parent.path / "int8-weights.onnx")
    rows = [*parent.meta["candidates"], {**CANDIDATE, "precision": "int8-weights", "ratio_to_fp32": 0.5}]
    chosen = replace(parent, meta={**parent.meta, "precision": "fp16", "candidates": rows})
    recipe = SimpleNamespace(**vars(context.recipe) | {"export": Export(on_miss=policy)})
    made = exported(chosen, replace(context, recipe=recipe), "onnxruntime-cpu", tmp_path)
    assert made.meta["candidate"] == taken
    assert any(note.startswith("fp16 is not taken: ") for note in made.meta["notes"])


@pytest.mark.long
def test_a_size_that_is_asked_for_holds_for_each_backend(parent, context, tmp_path):
    weights.weights_only(parent.file("fp32.onnx"), parent.path / "int8-weights.onnx")
    small = {**CANDIDATE, "precision": "int8-weights", "size_bytes": 500, "ratio_to_fp32": 9.0}
    chosen = replace(
        parent, meta={**parent.meta, "candidates": [{**CANDIDATE, "precision": "fp32", "size_bytes": 900}, small]}
    )
    recipe = SimpleNamespace(
        **vars(context.recipe) | {"quantize": Quantize(max_size_kb=0.6, max_drop=1, max_subset_drop=1)}
    )
    made = exported(chosen, replace(context, recipe=recipe), "openvino-cpu", tmp_path)
    assert made.meta["candidate"] == "int8-weights"


@pytest.mark.long
def test_a_precision_that_is_required_ships_on_each_backend_and_outside_the_budget_is_a_miss(parent, context, tmp_path):
    """The graph is so small that no backend gains by FP16: what is required was left for FP32 without a word."""
    pytest.importorskip("openvino")
    required = Quantize(candidates=("fp32", "fp16"), require="fp16", max_drop=1, max_subset_drop=1)
    wanted = replace(context, recipe=SimpleNamespace(**vars(context.recipe) | {"quantize": required}))
    made = exported(parent, wanted, "openvino-cpu", tmp_path)
    assert made.meta["candidate"] == "fp16" and not made.meta.get("misses")
    assert exported(parent, wanted, "openvino-cpu", tmp_path / "own", precision="fp32").meta["candidate"] == "fp32"
    strict = SimpleNamespace(policy="strict", confidence=0.95)  # 24 samples prove nothing
    recipe = {"quantize": required.model_copy(update={"max_drop": 0.0}), "judging": strict}
    doubted = replace(context, recipe=SimpleNamespace(**vars(context.recipe) | recipe))
    made = exported(parent, doubted, "openvino-cpu", tmp_path / "doubted")
    (miss,) = made.meta["misses"]
    assert made.meta["candidate"] == "fp16" and miss["name"] == "max_drop of fp16" and miss["exit"] == 3


def test_a_required_precision_is_that_of_targets_that_cannot_be_measured(parent, context, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "can_run", lambda name: False)
    required = Quantize(candidates=("fp32", "int8"), require="fp32")
    wanted = replace(context, recipe=SimpleNamespace(**vars(context.recipe) | {"quantize": required}))
    assert exported(parent, wanted, "onnxruntime-cuda", tmp_path).meta["precision"] == "fp32"
    assert exported(parent, context, "onnxruntime-cuda", tmp_path / "free").meta["precision"] == "fp16"


def test_what_cannot_be_rebuilt_is_a_usage_error(parent, context, tmp_path):
    path = bundled(exported(parent, context, "onnxruntime-cpu", tmp_path), path=tmp_path / "bundle")
    with pytest.raises(UsageError, match="no engine to rebuild"):
        rebuild(path)
    with pytest.raises(UsageError, match="no engine for 'tensorrt'"):
        rebuild(path, targets=["tensorrt"])
    bundles.pack(path, tmp_path / "b.zip")
    with pytest.raises(UsageError, match="not rebuilt in place"):
        rebuild(tmp_path / "b.zip")


def test_the_graph_of_the_bundle_has_every_node_that_a_reader_can_name(parent):
    assert all(node.name for node in read_nodes(parent.file("model.onnx")))
