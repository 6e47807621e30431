"""Quantization-aware training: it mends what calibration cannot, and ends in plain Q/DQ that both runtimes take."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mmedge import artifact, recipe
from mmedge.backends import onnxruntime_cpu, tensorrt
from mmedge.backends.backend import Job
from mmedge.backends.engine import profiles_of
from mmedge.graph import prepared
from mmedge.graph.precision import int8_kernels, optimized, to_symmetric
from mmedge.graph.trainable import TrainableGraph
from mmedge.measure.quality import predict_graph, predict_module, score
from mmedge.models.load import contract_of
from mmedge.progress import Silent
from mmedge.recipe import Model, Prune, Quantize, Train
from mmedge.stages import prune, quantize
from mmedge.stages.quantize import calibration, candidates, ptq
from mmedge.stages.trained import Trained, write_trained
from mmedge.training.context import Context
from mmedge.training.loop.batches import Training
from mmedge.training.loop.fit import fit
from mmedge.training.objectives import Supervised
from mmedge.training.qat import train_quantized
from mmedge.training.teaching.taught import teaching_of
from tests.conftest import staged

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def unequal():
    """Channels as they are: one range for all, which is found wherever no clip is in between, leaves nothing to train for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "_equal", lambda graph, *_: graph)
        yield


def rescaled(graph, path, factor=1024.0):
    """The same function with one channel of each first convolution ``factor`` times as large, and taken back after its ReLU.

    What depthwise networks do by themselves (Nagel et al. 2019, "Data-free quantization", figure 2): one scale for all
    channels of an activation then leaves no codes to the others.
    """
    model = onnx.load(graph)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for first, second in (convolutions[:2], convolutions[2:]):
        for name, where, by in ((first.input[1], 0, factor), (first.input[2], 0, factor), (second.input[1], (slice(None), 0), 1 / factor)):  # fmt: skip
            value = numpy_helper.to_array(stored[name]).copy()
            value[where] *= np.float32(by)
            stored[name].CopyFrom(numpy_helper.from_array(value, name))
    onnx.save(model, path)
    return path


def longer(made, context, folder):
    """The tiny run's teacher after enough epochs to have an accuracy that can be lost."""
    module, contract = context.rebuild(made), contract_of(made)
    samples, validation = context.dataset.train, context.dataset.validation
    train = Train(epochs=10, learning_rate=4e-3, batch_size=16, modality_dropout=0.3)
    fitted = fit(
        module,
        Supervised(contract, train),
        Training(contract, samples, validation, train, np.arange(len(samples)), 0, 0),
        state=folder / "state.safetensors",
        task="longer",
        progress=Silent(),
    )
    model = Model.model_validate(made.meta["model"])
    trained = Trained(module, contract, fitted, model)
    return staged(lambda _, trained, context: write_trained(trained, context), None, trained, context, folder / "t")


@pytest.fixture(scope="module")
def trained(finished, dataset, tmp_path_factory):
    """Accuracy on validation of FP32, INT8 after calibration and INT8 after training, and the folder of the graphs."""
    folder = tmp_path_factory.mktemp("qat")
    made = finished.artifact("teacher")
    whole = recipe.load(finished.recipe_file)
    # Whether outputs are kept hangs on time, and what is asked for in other batches differs in the last bit.
    whole = whole.model_copy(update={"distill": whole.distill.model_copy(update={"cache": "always"})})
    context = Context(whole, dataset, folder / "w", folder, Silent(), made)
    teacher = longer(made, context, folder)
    contract, validation = contract_of(teacher), dataset.validation
    graph = rescaled(teacher.file("model.onnx"), folder / "fp32.onnx")
    rows = calibration.calibration_rows(dataset.train, 40, seed=0)
    ptq.int8(graph, folder / "ptq.onnx", calibration.calibration_inputs(dataset.train, rows, 0))
    train = Train(epochs=20, learning_rate=1e-3, batch_size=16)
    fitted = train_quantized(
        folder / "ptq.onnx", folder / "qat.onnx", teacher, train, replace(context, teacher=teacher)
    )
    to_symmetric(folder / "qat.onnx", folder / "symmetric.onnx")
    scores = {
        name: score(
            contract,
            predict_graph(onnxruntime_cpu.session(folder / f"{name}.onnx"), contract, validation, validation.present),
            validation.targets,
        )
        for name in ("fp32", "ptq", "qat", "symmetric")
    }
    return folder, contract, scores, fitted


def test_training_recovers_what_calibration_lost(trained):
    _, _, scores, fitted = trained
    lost = scores["fp32"] - scores["ptq"]
    assert lost > 0.3
    assert min(scores["qat"], scores["symmetric"]) >= scores["fp32"] - lost / 3
    assert fitted.history[fitted.best_epoch - 1]["quality"] >= scores["fp32"] - lost / 3


def test_its_form_for_tensorrt_is_plain_symmetric_int8_with_a_scale_a_channel(trained):
    folder, *_ = trained
    model = onnx.load(folder / "symmetric.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {node.domain for node in model.graph.node} == {""} and pairs
    assert all(stored[node.input[2]].dtype == np.int8 and not stored[node.input[2]].any() for node in pairs)
    weights = [node for node in pairs if node.input[0] in stored]
    assert len(weights) == 8 and all(stored[node.input[1]].size == stored[node.input[0]].shape[0] for node in weights)


def test_the_graph_equals_the_module_that_was_trained(trained, dataset):
    folder, contract, _, _ = trained
    validation, graph = dataset.validation, folder / "symmetric.onnx"
    (expected,) = predict_module(TrainableGraph(graph), contract, validation, validation.present).values()
    run = onnxruntime_cpu.session(graph, optimize=False)
    (actual,) = predict_graph(run, contract, validation, validation.present).values()
    assert (
        np.median(np.abs(expected - actual)) < 1e-5 and np.abs(expected - actual).max() < 0.05 * np.abs(expected).max()
    )


def test_onnx_runtime_runs_it_in_8_bits_and_tensorrt_builds_it(trained):
    folder, contract, *_ = trained
    assert int8_kernels(optimized(folder / "qat.onnx"))["QLinearConv"] == 4
    job = Job(folder / "symmetric.onnx", "engine", profiles_of(contract), tensorrt.Options(), precision="int8")
    assert tensorrt.build("tensorrt-rtx", job).record()["weight_types"]["int8"] > 0


def test_training_without_the_runs_teacher_is_taught_by_the_fp32_parent(finished, context, tmp_path):
    made = finished.artifact("distill")
    alone = replace(context, teacher=None)
    graph = finished.artifact("quantize").file("int8.onnx")
    fitted = train_quantized(graph, tmp_path / "q.onnx", made, Train(epochs=1), alone)
    assert len(fitted.history) == 1 and (tmp_path / "q.onnx").is_file()


def test_a_student_that_does_better_without_the_teacher_is_not_taught_by_it_after_pruning_either(
    finished, context, tmp_path
):
    kept = {"decision": {"kept": "control"}, "loss": {"logits": 0.5, "hints": []}}
    made = finished.artifact("distill")
    made = replace(made, meta=made.meta | kept)
    branches = {"image": 0, "audio": 0, "fusion": 0}  # nothing is cut
    pruned = staged(prune.prune, made, Prune(branches=branches, round_to=2, ratios=(0.5,)), context, tmp_path / "p")
    assert "decision" not in pruned.meta
    theirs = context.recipe.teacher.model_copy(update={"classes": {"their name": "0"}})
    read = context.recipe.model_copy(update={"teacher": theirs})
    nobody = replace(
        context, teacher=replace(context.teacher, path=tmp_path / "nobody"), recipe=read
    )  # asking it fails
    for parent in (made, pruned):
        teaching, taught = teaching_of(parent, nobody)
        assert not taught and teaching.loss.logits == 0.5
    graph = finished.artifact("quantize").file("int8.onnx")
    assert len(train_quantized(graph, tmp_path / "q.onnx", pruned, Train(epochs=1), nobody).history) == 1


@pytest.fixture
def failing(trained, context):
    """A parent that calibration alone fails on, and a context whose teacher is right."""
    folder, *_ = trained
    teacher = artifact.read(folder / "t")
    shutil.copytree(folder / "t", context.work / "failing")
    shutil.copy(folder / "fp32.onnx", context.work / "failing" / "model.onnx")
    return replace(teacher, path=context.work / "failing"), replace(context, teacher=teacher)


def settings(**more):
    train = Train(epochs=6, learning_rate=1e-3, batch_size=16)
    budget = {"max_drop": 0.45, "max_subset_drop": 1.0, "calibration": 40}
    return Quantize(candidates=("fp32", "int8"), fallbacks=(), train=train, **budget, **more)


def test_the_stage_judges_the_trained_graph_like_every_candidate(failing, tmp_path, monkeypatch):
    parent, context = failing
    looked_at = []
    real = candidates.saturation
    monkeypatch.setattr(candidates, "_SATURATION", -1.0)  # all sums saturate by more than this
    monkeypatch.setattr(candidates, "saturation", lambda task, graph: looked_at.append(graph.stem) or real(task, graph))
    made = staged(quantize.quantize, parent, settings(qat="always"), context, tmp_path / "q")
    rows = {row["precision"]: row for row in made.meta["candidates"]}
    assert list(rows) == ["fp32", "int8", "int8-qat"]
    assert not rows["int8"]["kept"] and rows["int8-qat"]["kept"], [row["why"] for row in rows.values()]
    assert rows["int8-qat"]["int8_kernels"] == rows["int8"]["int8_kernels"]
    assert rows["int8-qat"]["size_bytes"] == made.file("int8-qat.onnx").stat().st_size
    assert any(note.startswith("int8-qat: trained from int8, epoch") for note in made.meta["notes"])
    for name in ("int8", "int8-qat"):  # told of both, and measured once each
        assert [note.partition(":")[0] for note in made.meta["notes"] if "fused kernels differ" in note].count(
            name
        ) == 1
    assert looked_at == ["int8", "int8-qat"]


def test_by_itself_it_trains_only_where_int8_is_faster_and_says_so_else(failing, tmp_path, monkeypatch):
    parent, context = failing
    monkeypatch.setattr("mmedge.stages.quantize.trained.NOISE", 1.0)  # no latency is below FP32's by so much
    made = staged(quantize.quantize, parent, settings(), context, tmp_path / "q")
    assert [row["precision"] for row in made.meta["candidates"]] == ["fp32", "int8"]
    assert any(note.startswith("int8-qat was not trained: INT8 takes") for note in made.meta["notes"])
    # Weights in 8 bits with float arithmetic lose nothing, and are not the INT8 that is asked for.
    asking = settings(require="int8").model_copy(update={"candidates": ("fp32", "int8", "int8-weights")})
    asked = staged(quantize.quantize, parent, asking, context, tmp_path / "asked")
    assert {row["precision"]: row["kept"] for row in asked.meta["candidates"]}["int8-weights"]
    assert asked.meta["precision"] == "int8-qat" and "misses" not in asked.meta


def test_it_does_not_train_where_calibration_was_enough_or_the_recipe_says_never(failing, finished, context, tmp_path):
    enough = staged(
        quantize.quantize, finished.artifact("teacher"), settings(qat="auto", require="int8"), context, tmp_path / "a"
    )
    never = staged(quantize.quantize, failing[0], settings(qat="never", require="int8"), failing[1], tmp_path / "b")
    assert not enough.file("int8-qat.onnx").exists() and not never.file("int8-qat.onnx").exists()
    assert enough.meta["candidates"][1]["kept"] and not never.meta["candidates"][1]["kept"]
