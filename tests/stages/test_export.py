"""Export on a small graph that needs no training: targets, per-subset and split engines, TensorRT's options, rebuild."""

import gc
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
from mmedge.backends import onnxruntime_cpu, tensorrt, tensorrt_rtx
from mmedge.backends.backend import Job
from mmedge.backends.engine import profiles_of
from mmedge.backends.onnxfile import read_nodes
from mmedge.errors import MismatchError, MmedgeError, UsageError
from mmedge.graph import precision
from mmedge.profiling import rebuild as rebuilding
from mmedge.profiling.rebuild import rebuild
from mmedge.progress import Silent
from mmedge.recipe import Export, Measure, Quantize
from mmedge.runtime.stream import Stream
from mmedge.stages import export
from mmedge.stages.export import choice, parts, verification
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
    return Context(recipe, SimpleNamespace(test=test, validation=test), tmp_path, tmp_path, Silent())


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
    context = replace(context, recipe=recipe, dataset=SimpleNamespace(test=judged, validation=judged))
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
    precision.weights_only(parent.file("fp32.onnx"), parent.path / "int8-weights.onnx")
    rows = [*parent.meta["candidates"], {**CANDIDATE, "precision": "int8-weights", "ratio_to_fp32": 0.5}]
    chosen = replace(parent, meta={**parent.meta, "precision": "fp16", "candidates": rows})
    recipe = SimpleNamespace(**vars(context.recipe) | {"export": Export(on_miss=policy)})
    made = exported(chosen, replace(context, recipe=recipe), "onnxruntime-cpu", tmp_path)
    assert made.meta["candidate"] == taken
    assert any(note.startswith("fp16 is not taken: ") for note in made.meta["notes"])


def built(name, graph, profiles):
    """The engine of a graph, with the builder's own options."""
    row = backends.find(name)
    return row.build(Job(graph, "engine", profiles, row.options()))


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx")


def test_tensorrt_is_built_with_the_options_of_the_recipe(rtx, parent, context, tmp_path):
    options = {"precision": "fp16", "max_batch": 4, "best_batch": 2, "workspace_mb": 64}
    made = exported(parent, context, "tensorrt-rtx", tmp_path, **options)
    engine = made.meta["engine"]
    assert engine["profiles"]["image"] == [[1, 1, 8, 8], [2, 1, 8, 8], [4, 1, 8, 8]]
    assert engine["profiles"]["present"] == [[1, 2], [2, 2], [4, 2]]
    assert engine["weight_types"]["half"] > 0 and engine["precision"] == "fp16"
    assert engine["graph_sha256"] == artifact.sha256_of(made.file("model.onnx"))
    assert engine["preprocessing_sha256"] == bundles.preprocessing_sha256(CONTRACT)


def test_tensorrt_engines_of_subsets_and_parts_are_built_and_picked_and_none_is_said_to_be_faster(
    rtx, parent, context, tmp_path, monkeypatch
):
    made = [exported(parent, context, name, tmp_path) for name in ("onnxruntime-cpu", "tensorrt-rtx")]
    path = bundled(*made, path=tmp_path / "bundle")
    entry = artifact.read(path).meta["targets"]["tensorrt-rtx"]
    # The picture's encoder is nearly all of the work: alone it leaves nothing out that would count.
    assert entry["subsets"] == {"vitals": "tensorrt-rtx/subsets/vitals.plan"} and entry["subset_latency"] == {}
    notes = "\n".join(made[1].meta["notes"])
    assert "engines of subsets, by what they leave out of the whole: vitals (0.00 x the MACs, " in notes
    assert "no engines of subsets, by what they leave out of the whole: image (" in notes
    assert notes.count("latency not measured: this machine cannot run the target") == 3
    built = entry["engine"]["parts"]
    assert set(built) == {f"split/{part}.plan" for part in ("image", "vitals", "fusion")} | {"subsets/vitals.plan"}
    assert built["subsets/vitals.plan"]["profiles"] == {"vitals": [[1, 3], [1, 3], [8, 3]]}
    assert built["split/fusion.plan"]["profiles"]["image_f"] == [[1, 8], [1, 8], [8, 8]]
    opened = running_their_graphs(monkeypatch)
    engine, plain = runtime.load(path, "tensorrt-rtx"), runtime.load(path)
    x = context.dataset.test.inputs["vitals"][:3]
    np.testing.assert_allclose(engine.run({"vitals": x})["logits"], plain.run({"vitals": x})["logits"], atol=1e-2)
    assert path / "tensorrt-rtx/subsets/vitals.plan" in opened
    stream = Stream(engine)
    stream.update(0.0, vitals=[1.0, 2.0, 3.0])
    expected = plain.predict(vitals=[1.0, 2.0, 3.0]).probabilities
    assert stream.predict(0.0).prediction.probabilities == pytest.approx(expected, abs=1e-2)
    assert {"fusion.plan", "image.plan", "vitals.plan"} <= {file.name for file in opened}


def running_their_graphs(monkeypatch) -> list[Path]:
    """TensorRT's engines, for which there is no GPU, answered by the graphs that they were built from; what was opened."""
    files = []

    def opened(file, target="onnxruntime-cpu", **_):
        files.append(file)
        graph = file.with_suffix(".onnx")
        return onnxruntime_cpu.session(graph if graph.is_file() else file.with_name("model.onnx"))

    for module in (runtime.engine, rebuilding, export, parts, choice):
        monkeypatch.setattr(module, "opened", opened)
    return files


def test_where_tensorrt_runs_its_own_engines_are_timed_compared_and_judged(rtx, parent, context, tmp_path, monkeypatch):
    files = running_their_graphs(monkeypatch)
    for module in (export, parts):
        monkeypatch.setattr(module, "can_run", lambda target: True)
    made = exported(parent, context, "tensorrt-rtx", tmp_path)
    assert made.meta["latency"]["target"] == "tensorrt-rtx" and made.meta["latency"]["ratio_to_parent"] > 0
    assert {"fp32", "fp16"} <= {file.parent.name for file in files if file.name == "engine.plan"}
    notes = "\n".join(made.meta["notes"])
    assert "not measured" not in notes and " x the latency of " in notes
    assert made.meta["subsets"]["vitals"]["ratio_to_all"] < 1 and "engine for vitals alone: 0." in notes
    assert export.measured_file(made) == (made.file("engine.plan"), "tensorrt-rtx")
    assert not (made.path / ".timed").exists()


def test_a_candidate_that_the_target_does_not_build_is_left_with_a_note(rtx, parent, context, tmp_path, monkeypatch):
    running_their_graphs(monkeypatch)
    for module in (export, parts):
        monkeypatch.setattr(module, "can_run", lambda target: True)
    row = backends.find("tensorrt-rtx")

    def refusing(job):
        if job.graph.parent.name == "fp16":
            raise MmedgeError("no kernel for it")
        return row.build(job)

    monkeypatch.setattr(tensorrt_rtx, "BACKEND", replace(row, build=refusing))
    made = exported(parent, context, "tensorrt-rtx", tmp_path)
    assert made.meta["precision"] == "fp32"
    assert "fp16: not built for tensorrt-rtx: no kernel for it" in made.meta["notes"]


def test_nodes_that_tensorrt_does_not_take_are_named_before_the_build(rtx, parent, tmp_path):
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Relu", ["x"], ["y"], "fine"),
        helper.make_node("Unheard", ["y"], ["z"], "of_nobody", domain="somebody"),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "z")]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("somebody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "odd.onnx")
    assert any("of_nobody" in name for name in tensorrt.unsupported_nodes(tmp_path / "odd.onnx", "tensorrt-rtx"))
    with pytest.raises(MmedgeError, match="of_nobody"):
        built("tensorrt-rtx", tmp_path / "odd.onnx", {"x": [[1, 3], [1, 3], [8, 3]]})
    assert tensorrt.unsupported_nodes(parent.file("model.onnx"), "tensorrt-rtx") == []


@pytest.fixture
def aged(rtx, parent, context, tmp_path):
    """A bundle whose TensorRT engines are as if built by another version."""
    options = {"max_batch": 4, "best_batch": 2, "workspace_mb": 64, "level": 1}
    made = [
        exported(parent, context, "onnxruntime-cpu", tmp_path),
        exported(parent, context, "tensorrt-rtx", tmp_path, **options),
    ]
    path = bundled(*made, path=tmp_path / "bundle")
    with bundles.rewriting(artifact.read(path)) as (folder, meta):
        engine = meta["targets"]["tensorrt-rtx"]["engine"] | {"version": "0.9"}
        meta["targets"] = meta["targets"] | {"tensorrt-rtx": meta["targets"]["tensorrt-rtx"] | {"engine": engine}}
        for file in folder.glob("tensorrt-rtx/**/*.plan"):
            file.write_bytes(b"old")
    return path


def test_a_bundles_engines_are_rebuilt_from_the_graphs_in_it_with_the_options_of_the_recipe(rtx, aged):
    with pytest.raises(MmedgeError, match=r"--rebuild"):
        runtime.load(aged, "tensorrt-rtx")
    before = artifact.read(aged).meta["targets"]["tensorrt-rtx"]
    built = rebuild(aged)["tensorrt-rtx"].record()
    assert built["version"] == rtx.__version__ and built["batch"] == [1, 4]
    assert {**built, "version": "0.9"} == before["engine"]
    plans = list(aged.glob("tensorrt-rtx/**/*.plan"))
    assert len(plans) == 5 and all(file.stat().st_size > 1000 for file in plans)
    assert artifact.read(aged).meta["targets"]["tensorrt-rtx"]["subsets"] == before["subsets"]
    assert runtime.load(aged).predict(vitals=[0.0, 0.0, 0.0]).label


@pytest.mark.parametrize("graph", ["model.onnx", "split/fusion.onnx"])
def test_an_engine_of_another_graph_than_the_bundles_is_not_loaded(rtx, aged, graph):
    rebuild(aged)
    with bundles.rewriting(artifact.read(aged)) as (folder, _):
        model = onnx.load(folder / "tensorrt-rtx" / graph)
        model.doc_string = "changed"
        onnx.save(model, folder / "tensorrt-rtx" / graph)
    with pytest.raises(MmedgeError, match=f"built of another tensorrt-rtx/{graph}") as raised:
        runtime.load(aged, "tensorrt-rtx")
    assert "--rebuild" in str(raised.value)


def test_an_engine_that_brings_code_along_is_loaded_from_a_signed_bundle_alone(rtx, aged):
    rebuild(aged)
    with bundles.rewriting(artifact.read(aged)) as (_, meta):
        entry = meta["targets"]["tensorrt-rtx"]
        entry = entry | {"engine": entry["engine"] | {"version_compatible": True}}
        meta["targets"] = meta["targets"] | {"tensorrt-rtx": entry}
    with pytest.raises(MmedgeError, match="brings code") as raised:
        runtime.load(aged, "tensorrt-rtx")
    assert "require_signature" in str(raised.value)


@pytest.mark.parametrize("field", ["file", "parts"])
def test_a_rebuild_reads_and_writes_nothing_that_the_manifest_does_not_list(rtx, aged, tmp_path, field):
    shutil.copyfile(aged / "model.onnx", tmp_path / "elsewhere.onnx")
    part = {"graph": "../../elsewhere.onnx", "graph_sha256": "0", "profiles": {}}
    outside = {"file": "../../elsewhere.plan", "parts": {"../../elsewhere.plan": part}}[field]
    with bundles.rewriting(artifact.read(aged)) as (_, meta):
        engine = meta["targets"]["tensorrt-rtx"]["engine"] | {field: outside}
        meta["targets"] = meta["targets"] | {"tensorrt-rtx": meta["targets"]["tensorrt-rtx"] | {"engine": engine}}
    with pytest.raises(MmedgeError, match="names a file that its manifest does not list"):
        rebuild(aged)
    assert not (tmp_path / "elsewhere.plan").exists()


def test_engines_of_subsets_are_timed_when_they_are_rebuilt_where_they_run(aged, monkeypatch):
    running_their_graphs(monkeypatch)
    monkeypatch.setattr(rebuilding, "can_run", lambda target: True)
    times = {"": [9, 9], "vitals": [3, 3]}
    monkeypatch.setattr(rebuilding, "sittings", lambda calls, **_: {key: np.array(times[key]) for key in calls})
    rebuild(aged)
    entry = artifact.read(aged).meta["targets"]["tensorrt-rtx"]
    assert entry["subsets"] and entry["subset_latency"]["vitals"]["ratio_to_all"] == pytest.approx(1 / 3)
    times["vitals"] = [9, 10]
    rebuild(aged)
    assert artifact.read(aged).meta["targets"]["tensorrt-rtx"]["subsets"] == {}


def test_fp16_that_overflows_is_a_mismatch_at_the_first_node_in_the_graph_that_is_still_there(rtx, context, tmp_path):
    with artifact.creating(tmp_path / "hot", stage="teacher", key="k", parent=None) as (folder, meta):
        write_graph(folder / "model.onnx", channels=8)
        model = onnx.load(folder / "model.onnx")
        for tensor in model.graph.initializer:
            scale = {"image_w": 1e7, "head": 1e-7}.get(tensor.name)
            if scale:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(scale), tensor.name))
        onnx.save(model, folder / "model.onnx")
        meta |= DESCRIBED
    with pytest.raises(MismatchError, match=r"first node that differs: image_linear \(MatMul\)") as raised:
        exported(artifact.read(tmp_path / "hot"), context, "tensorrt-rtx", tmp_path, precision="fp16")
    assert raised.value.exit_code == 5 and raised.value.where == str(tmp_path / "hot/model.onnx")


def test_no_garbage_is_collected_while_tensorrt_may_call_its_logger(rtx, tmp_path, monkeypatch):
    # A builder among the garbage would then wait for the lock that the call holds: the process stood still for ever.
    collects = []

    class Watching(rtx.ILogger):
        worst = ""

        def __init__(self):
            rtx.ILogger.__init__(self)

        def log(self, severity, message):
            collects.append(gc.isenabled())

    monkeypatch.setattr(tensorrt, "collector", lambda trt: Watching())
    write_graph(tmp_path / "model.onnx", channels=8)
    built("tensorrt-rtx", tmp_path / "model.onnx", profiles_of(CONTRACT))
    assert collects and not any(collects) and gc.isenabled()


def test_a_node_without_a_name_and_weights_in_another_file_are_told_apart(rtx, tmp_path):
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 6]) for name in "xy"]
    weights = numpy_helper.from_array(np.ones((6, 6), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], "fine"), helper.make_node("Bernoulli", ["a"], ["y"])]
    for kept, name in ((nodes, "odd.onnx"), ([helper.make_node("MatMul", ["x", "w"], ["y"])], "apart.onnx")):
        graph = helper.make_graph(kept, "g", value[:1], value[1:], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, tmp_path / name, save_as_external_data=True, location=f"{name}.bin", size_threshold=8)
    assert tensorrt.unsupported_nodes(tmp_path / "odd.onnx", "tensorrt-rtx") == ["node 1 (Bernoulli)"]
    assert tensorrt.unsupported_nodes(tmp_path / "apart.onnx", "tensorrt-rtx") == []


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
