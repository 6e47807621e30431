"""Export to TensorRT: its own builder, the engines of subsets and parts, and what a device builds again."""
# ruff: noqa: F811 -- the fixtures are those of test_export.py

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mmedge import artifact, backends, runtime
from mmedge import bundle as bundles
from mmedge.backends import onnxruntime_cpu, tensorrt, tensorrt_rtx
from mmedge.backends.backend import Job
from mmedge.backends.engine import profiles_of
from mmedge.errors import MismatchError, MmedgeError
from mmedge.profiling import rebuild as rebuilding
from mmedge.profiling.rebuild import rebuild
from mmedge.runtime.stream import Stream
from mmedge.stages import export
from mmedge.stages.export import choice, parts
from tests.small import CONTRACT, write_graph
from tests.stages.test_export import CANDIDATE, DESCRIBED, bundled, context, exported, parent  # noqa: F401


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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
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
