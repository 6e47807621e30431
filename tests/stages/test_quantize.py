"""Quantization: candidates, their calibration, and what is said of those that lost."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mmedge import conclude
from mmedge.errors import MismatchError, MmedgeError, UsageError
from mmedge.graph import fusion, precision, qdq
from mmedge.models.load import contract_of
from mmedge.progress import Silent
from mmedge.recipe import Quantize
from mmedge.runtime.targets import onnxruntime_cpu
from mmedge.stages import quantize
from mmedge.stages.quantize import calibration, candidates, mixed, ptq
from mmedge.stages.quantize.calibration import calibration_inputs, calibration_rows


def test_quantize_has_a_row_a_candidate_with_the_reason_it_was_kept_or_not(finished):
    made = finished.artifact("quantize")
    table = {row["precision"]: row for row in made.meta["candidates"]}
    assert list(table) == ["fp32", "fp16", "int8", "int8-mixed"]
    assert table["int8-mixed"]["int8_layers"]["int8"] == table["int8-mixed"]["int8_layers"]["asked"] > 0
    assert 0 <= table["int8"]["saturation"] < 1
    assert table["fp32"]["ratio_to_fp32"] == 1 and table["int8"]["int8_kernels"]
    for name, row in table.items():
        assert row["kept"] and row["why"].startswith("kept: " if name == "fp32" else "kept: loses")
        assert row["drop_ci95"][0] <= row["drop"] <= row["drop_ci95"][1]
        assert set(row["subsets_validation"]) == {"image", "audio", "image+audio"} and row["n"] == 50
        assert made.file(f"{name}.onnx").stat().st_size == row["size_bytes"]
    assert made.file("model.onnx").read_bytes() == made.file(f"{made.meta['precision']}.onnx").read_bytes()


def row(precision, p50, kept=True):
    return {"precision": precision, "p50_ms": p50, "ratio_to_fp32": p50, "kept": kept}


@pytest.mark.parametrize(
    ("table", "chosen"),
    [
        ([row("fp32", 1.0), row("fp16", 1.2), row("int8", 0.5)], "int8"),
        ([row("fp32", 1.0), row("fp16", 1.2), row("int8", 0.5, kept=False)], "fp32"),
        ([row("fp32", 1.0), row("fp16", 0.99), row("int8", 1.5)], "fp32"),  # faster, but within timing noise
        ([row("fp32", 1.0), row("fp16", 0.9), row("int8", 0.8, kept=False)], "fp16"),
    ],
)
def test_the_fastest_candidate_inside_the_budget_is_chosen(table, chosen):
    assert candidates.fastest_kept(table)["precision"] == chosen


def test_a_candidate_outside_the_budget_is_dropped(finished, context, tmp_path, monkeypatch):
    """FP32's figures are raised, so that the other candidate loses."""
    real = candidates.score
    asked = []

    def score(contract, output, targets):
        asked.append(real(contract, output, targets))
        return asked[-1] + (0.5 if len(asked) == 1 else 0)

    monkeypatch.setattr(candidates, "score", score)
    config = Quantize(candidates=("fp32", "fp16"), max_drop=0.01, max_subset_drop=1.0)
    made = quantize.quantize(finished.artifact("prune"), config, context, tmp_path / "q", "k")
    table = {row["precision"]: row for row in made.meta["candidates"]}
    assert not table["fp16"]["kept"] and table["fp16"]["why"].startswith("dropped: loses 0.5")
    assert made.meta["precision"] == "fp32"


def test_calibration_takes_training_rows_spread_over_the_classes(dataset):
    rows = calibration_rows(dataset.train, 40, seed=0)
    assert len(set(rows)) == 40 and (np.bincount(dataset.train.targets[rows], minlength=10) == 4).all()
    assert set(calibration_rows(dataset.train, 10_000, seed=0)) == set(range(240))


def test_quantize_calibrates_on_the_training_split_and_with_modalities_missing(
    finished, context, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        ptq,
        "int8",
        lambda graph, target, inputs, variant: (seen.extend(inputs), target.write_bytes(graph.read_bytes())),
    )
    config = Quantize(candidates=("fp32", "int8"), calibration=40)
    with pytest.raises(MismatchError, match="no 8-bit kernel"):  # the copy is FP32: told, not believed
        quantize.quantize(finished.artifact("prune"), config, context, tmp_path / "q", "k")
    train = {x.tobytes() for x in np.asarray(context.dataset.train.inputs["image"])}
    assert len(seen) == 40 and all(sample["image"][0].tobytes() in train for sample in seen)
    assert {tuple(sample["present"][0]) for sample in seen} == {(True, True), (True, False), (False, True)}
    assert all(sample["image"].any() and sample["audio"].any() for sample in seen)


@pytest.fixture
def graphs(finished):
    """(INT8 graph, FP32 graph) of the finished run."""
    return finished.out / "quantize" / "int8.onnx", finished.out / "quantize" / "fp32.onnx"


def scaled(graph: Path, source: str, factor: float, target: Path) -> Path:
    """A copy of a Q/DQ graph in which the pair behind the tensor ``source`` has another scale."""
    model = onnx.load(graph)
    name = next(n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == source)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            value = np.asarray(numpy_helper.to_array(tensor) * factor, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, name))
    onnx.save(model, target)
    return target


@pytest.fixture
def outputs(finished, context):
    made = finished.artifact("prune")
    made = candidates.outputs_of(made.file("model.onnx"), contract_of(made), context.dataset.validation)
    return lambda graph: made(graph, True)


def searched(graph, reference, outputs, tmp_path, *, most=0.02, seconds=60.0):
    """A search whose budget is on the outputs' error, which leaves nothing to chance."""
    expected = outputs(reference)
    return mixed.search(
        graph,
        tmp_path / "mixed.onnx",
        reference=reference,
        outputs=outputs,
        overshoot=lambda part: mixed.distance(expected, outputs(part)) - most,
        progress=Silent(),
        seconds=seconds,
        cache=tmp_path / "work" / "known.json",
    )


def test_the_layer_that_quantization_breaks_goes_back_to_fp32_and_the_others_stay(graphs, outputs, tmp_path):
    int8, fp32 = graphs
    first = next(layer for layer in qdq.layers(onnx.load(int8)) if layer.branch == "audio" and layer.kind == "Conv")
    broken = scaled(int8, "audio", 1 / 64, tmp_path / "broken.onnx")  # nearly all of the sound is clipped
    expected = outputs(fp32)
    # Between what INT8 costs this network where nothing is broken, whatever its training came to, and what it costs broken.
    whole, hurt = (mixed.distance(expected, outputs(graph)) for graph in (int8, broken))
    assert hurt > 1.5 * whole
    most = whole + 0.3 * (hurt - whole)
    found = searched(broken, fp32, outputs, tmp_path, most=most)
    assert found["found"] and [group["label"] for group in found["groups"] if group["fp32"]] == [first.label]
    assert max(found["groups"], key=lambda group: group["error"])["label"] == first.label
    assert found["branches"]["audio"] > found["branches"]["image"]
    assert mixed.distance(expected, outputs(tmp_path / "mixed.onnx")) <= most
    again = searched(broken, fp32, outputs, tmp_path, most=most)
    assert again["evaluations"] == 0 and again["groups"] == found["groups"]


def test_a_search_that_finds_nothing_writes_nothing_and_says_why(graphs, outputs, tmp_path):
    found = searched(*graphs, outputs, tmp_path, most=-1.0)
    assert (
        not found["found"] and found["said"] == "only FP32 holds the budget" and not (tmp_path / "mixed.onnx").exists()
    )
    late = searched(*graphs, outputs, tmp_path / "late", seconds=1e-9)
    assert not late["found"] and "the time of 1e-09 s ended first" in late["said"]


def test_many_layers_are_judged_in_groups_of_one_branch(graphs):
    layers = qdq.layers(onnx.load(graphs[0]))
    groups = mixed.grouped(layers, 4)
    assert [name for group in groups for name in group.names] == [
        layer.name for branch in ("image", "audio", "fusion") for layer in layers if layer.branch == branch
    ]
    assert all(len({layer.branch for layer in group.layers}) == 1 for group in groups) and len(groups) < len(layers)


def test_a_modality_whose_codes_a_shared_scale_wastes_gets_its_own(graphs, context, outputs, tmp_path):
    int8, fp32 = graphs
    inputs = calibration_inputs(context.dataset.train, np.arange(24), 0)
    sound = {row["branch"]: row for row in fusion.keep_apart(int8, fp32, inputs)}
    assert set(sound) == {"image", "audio"} and not any(row["apart"] for row in sound.values())
    joined = [n.output[0] for n in onnx.load(fp32).graph.node if n.op_type == "Where"]
    wasted = scaled(int8, joined[0], 16.0, tmp_path / "wasted.onnx")  # as if the other modality were 16 times larger
    before = mixed.distance(outputs(fp32), outputs(wasted))
    rows = {row["branch"]: row for row in fusion.keep_apart(wasted, fp32, inputs)}
    assert rows["image"]["apart"] and not rows["audio"]["apart"]
    assert rows["image"]["scale"] > 8 * rows["image"]["own_scale"] and rows["image"]["codes"] > 0.2
    assert mixed.distance(outputs(fp32), outputs(wasted)) < before


def test_a_table_of_two_numbers_is_quantized_by_all_their_values(tmp_path):
    """The mean of each sample's extremes is some 1.1 where the values go to 3."""
    random = np.random.default_rng(0)
    stored = {"w": random.standard_normal((2, 32)), "v": random.standard_normal((32, 4))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 2])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in stored.items()],
    )
    path, target = tmp_path / "x.onnx", tmp_path / "q.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    inputs = [{"x": random.standard_normal((1, 2)).astype(np.float32)} for _ in range(64)]
    ptq.int8(path, target, inputs, "int8")

    def error():
        runs = [onnxruntime_cpu.session(file, optimize=False) for file in (path, target)]
        exact, coded = ([run(sample)["y"] for sample in inputs] for run in runs)
        return mixed.distance(np.concatenate(exact), np.concatenate(coded))

    before = error()
    assert fusion.widen_few(target, path, inputs) == 2 and fusion.widen_few(target, path, inputs) == 0
    assert error() < 1e-3 < 0.02 < before


def test_calibration_grows_until_the_ranges_rest(graphs, context):
    """The same sample again and again rests at once; samples that grow never do."""
    sample = calibration_inputs(context.dataset.train, np.arange(1), 0)[0]
    count, curve = calibration.converged(graphs[1], [sample] * 200)
    assert (count, curve) == (64, [{"samples": 64, "change": 0.0}])
    growing = [{**sample, "image": sample["image"] * np.float32(1 + n)} for n in range(130)]
    count, curve = calibration.converged(graphs[1], growing)
    assert count == 130 and [point["samples"] for point in curve] == [64, 128, 130]
    assert curve[0]["change"] > 0.3


def test_a_missing_class_and_a_modality_that_is_never_absent_or_never_there_are_told(context):
    train, contract = context.dataset.train, context.dataset.contract
    rows = np.flatnonzero(train.targets != 7)
    inputs = calibration_inputs(train, rows, 0)
    assert calibration.gaps(train, rows, inputs, contract) == ["no sample of the classes 7"]
    whole = [{**sample, "present": np.array([[True, False]])} for sample in inputs]
    gaps = calibration.gaps(train, np.arange(240), whole, contract)
    assert [gap[:16] for gap in gaps] == ["every sample has", "no sample has au"]


def test_an_ignored_layer_that_does_not_exist_is_told_with_the_close_ones(finished, context, tmp_path):
    config = Quantize(candidates=("fp32", "int8"), calibration=8, ignore=("encoders.audio.featurs.0",))
    with pytest.raises(UsageError, match=r"quantize\.ignore.*close ones are .*encoders\.audio\.features\.0") as raised:
        quantize.quantize(finished.artifact("prune"), config, context, tmp_path / "q", "k")
    assert raised.value.exit_code == 2 and not (tmp_path / "q").exists()


def test_an_ignored_branch_stays_float_and_what_cannot_be_made_is_told(finished, context, tmp_path):
    config = Quantize(
        candidates=("fp32", "bf16", "int8"), calibration=300, ignore=("audio",), max_drop=1.0, max_subset_drop=1.0
    )
    made = quantize.quantize(finished.artifact("prune"), config, context, tmp_path / "q", "k")
    layers = qdq.layers(onnx.load(made.file("int8.onnx")))
    assert layers and {layer.branch for layer in layers} == {"image", "fusion"}
    notes = "\n".join(made.meta["notes"])
    assert "bf16: not made: ONNX Runtime has no bfloat16" in notes
    assert "calibrated on 240 samples, all there are; 300 were asked for" in notes
    assert made.meta["calibration"] == {"samples": 240, "gaps": []}


def test_fallbacks_are_tried_until_one_is_inside_the_budget(finished, context, tmp_path, monkeypatch):
    """Every score is real but those of plain INT8, which are lowered."""
    real = candidates.evaluator

    def lowered(contract, samples):
        evaluate = real(contract, samples)
        return lambda graph: (
            dataclasses.replace(evaluate(graph), quality=-1.0) if graph.name == "int8.onnx" else evaluate(graph)
        )

    monkeypatch.setattr(quantize, "evaluator", lowered)
    config = Quantize(
        candidates=("fp32", "int8"),
        fallbacks=("int8-extremes", "int8-percentile"),
        calibration=8,
        max_drop=1.0,
        max_subset_drop=1.0,
    )
    made = quantize.quantize(finished.artifact("prune"), config, context, tmp_path / "q", "k")
    assert [row["precision"] for row in made.meta["candidates"]] == ["fp32", "int8", "int8-extremes"]
    assert not made.file("int8-percentile.onnx").exists()


def test_a_required_precision_outside_the_budget_is_exit_3_with_the_best_kept_and_named(tmp_path):
    table = candidates.Table(
        rows=[
            row("fp32", 1.0) | {"quality_validation": 0.9, "why": ""},
            row("int8", 0.5, kept=False) | {"quality_validation": 0.6, "why": ""},
            row("int8-mixed", 0.7, kept=False) | {"quality_validation": 0.8, "why": ""},
        ]
    )
    for name in ("fp32", "int8", "int8-mixed"):
        (tmp_path / f"{name}.onnx").write_text(name)
    notes: list[str] = []
    meta = quantize.concluded(table, Quantize(candidates=("fp32", "int8"), require="int8"), tmp_path, notes)
    assert meta["precision"] == "int8-mixed" and (tmp_path / "model.onnx").read_text() == "int8-mixed"
    assert "the best that was found is int8-mixed" in meta["notes"][0]
    record: dict = {"gates": []}

    class Made:
        pass

    made = Made()
    made.meta = meta
    assert conclude._missed(made, record) == [3]
    assert record["gates"][0]["name"] == "max_drop of int8" and not record["gates"][0]["passed"]
    with pytest.raises(ValueError, match="needs int8 among 'candidates'"):
        Quantize(candidates=("fp32", "fp16"), require="int8")


def test_weights_in_8_bits_with_float_arithmetic_are_not_the_int8_that_is_required(tmp_path):
    rows = [row("fp32", 1.0), row("int8", 0.5, kept=False), row("int8-weights", 0.9)]
    table = candidates.Table(rows=[it | {"quality_validation": 0.9, "why": ""} for it in rows])
    (tmp_path / "int8.onnx").write_text("int8")
    meta = quantize.concluded(
        table, Quantize(candidates=("fp32", "int8", "int8-weights"), require="int8"), tmp_path, []
    )
    assert meta["precision"] == "int8" and [miss["exit"] for miss in meta["misses"]] == [3]


def test_a_taken_graph_with_a_layer_that_runs_in_float_for_no_reason_is_a_mismatch_with_exit_5(graphs, tmp_path):
    proof = qdq.prove(graphs[0], onnx.load(graphs[0]))  # as if the runtime fused nothing
    taken = row("int8", 0.5) | {"quality_validation": 0.9, "why": "", "int8_layers": proof.record()}
    table = candidates.Table(rows=[row("fp32", 1.0) | {"quality_validation": 0.9, "why": ""}, taken])
    with pytest.raises(MismatchError, match=r"ignore: \[encoders\.image\.features\.0") as raised:
        quantize.concluded(table, Quantize(), tmp_path, [])
    assert raised.value.exit_code == 5
    table.rows[1]["kept"] = False  # what is not taken need not be what it says
    (tmp_path / "fp32.onnx").write_text("fp32")
    assert quantize.concluded(table, Quantize(), tmp_path, [])["precision"] == "fp32"


def test_a_graph_with_shapes_that_depend_on_its_data_is_quantized_around_them(tmp_path):
    """Positive values alone go on: NonZero gives as many rows as there are, and for some samples none."""
    random = np.random.default_rng(1)
    stored = {"w": random.standard_normal((8, 4)).astype(np.float32), "v": random.standard_normal((1, 3)), "one": [1]}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["c"], "first"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("NonZero", ["r"], ["n"], "nonzero"),
        helper.make_node("Transpose", ["n"], ["t"], "transpose", perm=[1, 0]),
        helper.make_node("GatherND", ["r", "t"], ["g"], "gathernd"),
        helper.make_node("Unsqueeze", ["g", "one"], ["u"], "unsqueeze"),
        helper.make_node("MatMul", ["u", "v"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["found", 3])],
        [
            numpy_helper.from_array(np.asarray(value, np.int64 if name == "one" else np.float32), name)
            for name, value in stored.items()
        ],
    )
    path = tmp_path / "x.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    inputs = [{"x": random.standard_normal((1, 8)).astype(np.float32)} for _ in range(8)]
    inputs += [{"x": np.zeros((1, 8), np.float32)}]
    assert calibration.converged(path, inputs)[0] == 9
    ptq.int8(path, tmp_path / "q.onnx", inputs, "int8-extremes")
    assert {layer.label for layer in qdq.layers(onnx.load(tmp_path / "q.onnx"))} >= {"w", "v"}
    kernels = candidates.proved(tmp_path / "q.onnx")
    assert kernels["int8_layers"]["float_layers"] == {"v": "its input is not quantized, or not as a whole"}
    compared = 0
    for sample in inputs:
        a, b = (onnxruntime_cpu.session(file)(sample)["y"] for file in (path, tmp_path / "q.onnx"))
        if a.shape == b.shape:  # a value near zero may round to it
            compared += len(a) > 0
            assert np.abs(a - b).max(initial=0) <= 0.3 * np.abs(a).max(initial=0)
    assert compared >= 4


def test_depthwise_and_linear_convolutions_all_run_in_8_bits_and_tensorrt_takes_their_codes(tmp_path):
    """An inverted residual (MobileNetV2): a scale a channel, or codes of two types, would leave most of it in float."""
    torch.manual_seed(0)

    class Inverted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 16, 3, 2, 1)
            self.wide = torch.nn.Conv2d(16, 32, 1)
            self.depth = torch.nn.Conv2d(32, 32, 3, 1, 1, groups=32)
            self.linear = torch.nn.Conv2d(32, 16, 1)
            self.out = torch.nn.Conv2d(16, 16, 1)

        def forward(self, x):
            x = self.stem(x)
            return self.out(x + self.linear(torch.relu(self.depth(torch.relu(self.wide(x))))))

    random = np.random.default_rng(0)
    inputs = [{"x": random.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(8)]
    example = (torch.from_numpy(inputs[0]["x"]),)
    torch.onnx.export(
        Inverted().eval(),
        example,
        tmp_path / "m.onnx",
        input_names=["x"],
        output_names=["y"],
        dynamo=True,
        verbose=False,
    )
    ptq.int8(tmp_path / "m.onnx", tmp_path / "q.onnx", inputs, "int8")
    proof = candidates.proved(tmp_path / "q.onnx")["int8_layers"]
    assert proof["asked"] == 5 and set(proof["float_layers"].values()) <= {"its output stays float"}
    assert proof["int8"] >= 4
    assert precision.to_symmetric(tmp_path / "q.onnx", tmp_path / "s.onnx") > 0
    a, b = (onnxruntime_cpu.session(tmp_path / name, optimize=False)(inputs[0])["y"] for name in ("q.onnx", "s.onnx"))
    assert np.abs(a - b).max() < 0.05 * np.abs(a).max()
    precision.to_unsigned(tmp_path / "s.onnx", tmp_path / "q.onnx", tmp_path / "u.onnx")
    back = onnxruntime_cpu.session(tmp_path / "u.onnx", optimize=False)(inputs[0])["y"]
    assert np.abs(a - back).max() <= 1e-3 * np.abs(a).max()


def test_what_nncf_cannot_quantize_is_one_error_with_the_candidate(graphs, tmp_path):
    with pytest.raises(MmedgeError, match=r"NNCF cannot quantize this graph \(int8-percentile\)") as raised:
        ptq.int8(graphs[1], tmp_path / "q.onnx", [{"image": np.zeros((1, 2), np.float32)}], "int8-percentile")
    assert "quantize.candidates" in str(raised.value) and not (tmp_path / "q.onnx").exists()
