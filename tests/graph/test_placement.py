"""INT8 of a transformer: what is quantized, what is not, and that runtimes fuse all of it. Pictures are real digits, texts real sentences."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mmedge.backends import onnxruntime_cpu, openvino_cpu
from mmedge.contract import Contract, Head
from mmedge.errors import MmedgeError
from mmedge.graph import dynamic, placement, precision, qdq, smoothing, weights
from mmedge.graph.export import export
from mmedge.graph.placement import Form
from mmedge.graph.prepared import prepared
from mmedge.graph.wiring import Wiring
from mmedge.stages.quantize import candidates, ptq
from mmedge.stages.quantize.mixed import distance

TOKENS = 24


class Both(nn.Module):
    """A picture through an inverted residual and a ViT, a text through a masked BERT, of transformers' own code."""

    def __init__(self):
        from transformers import BertConfig, BertModel, ViTConfig, ViTModel

        super().__init__()
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        self.wide, self.depth = nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.narrow = nn.Conv2d(16, 16, 1)
        vit = ViTConfig(**shape, image_size=14, patch_size=7, num_channels=16)
        self.see = ViTModel(vit, add_pooling_layer=False)
        self.read = BertModel(
            BertConfig(**shape, vocab_size=256, max_position_embeddings=TOKENS), add_pooling_layer=False
        )
        self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, picture, text, present):
        x = torch.relu(self.wide(picture))
        x = x + self.narrow(torch.relu(self.depth(x)))
        seen = self.see(pixel_values=x).last_hidden_state[:, 0]
        read = self.read(input_ids=text, attention_mask=(text != 0).long()).last_hidden_state[:, 0]
        return {"y": self.head(torch.cat([seen, read], 1))}


@pytest.fixture(scope="module")
def made(tmp_path_factory, dataset):
    """(FP32 graph, its INT8, calibration samples, others): half of the texts are padded."""
    from mmedge.spec import ImageSpec, TextSpec

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("placement")
    modalities = {
        "picture": ImageSpec(kind="image", height=28, width=28, channels=1),
        "text": TextSpec(kind="text", length=TOKENS),
    }
    contract = Contract(modalities=modalities, heads={"y": Head(task="classification", labels=("a", "b", "c", "d"))})
    module = Both().eval()
    with torch.no_grad():  # spread like trained ones, a few channels far out
        for name, parameter in module.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1:
                parameter.mul_(2)
        module.see.layers[0].layernorm_before.weight[:3] = 12 if hasattr(module.see, "layers") else 1
    export(module, contract, folder / "fp32.onnx")
    sentences = [line for line in Path("README.md").read_text().splitlines() if len(line) > 40 and line.isascii()][:48]
    pictures = np.array(dataset.train.inputs["image"][: len(sentences)], np.float32)[:, None]
    samples = []
    for number, (picture, line) in enumerate(zip(pictures, sentences)):
        ids = np.zeros((1, TOKENS), np.int64)
        kept = line.encode()[: TOKENS if number % 2 else 5 + number % 7]
        ids[0, : len(kept)] = list(kept)
        samples.append({"picture": picture, "text": ids, "present": np.ones((1, 2), bool)})
    ptq.int8(folder / "fp32.onnx", folder / "int8.onnx", samples[:32], "int8")
    return folder / "fp32.onnx", folder / "int8.onnx", samples[:32], samples[32:]


def outputs(run, samples):
    return np.concatenate([run(sample)["y"] for sample in samples])


def far(graph, made, optimize=True):
    """The error of a graph's outputs, 0 to 1, on samples that it was not calibrated on."""
    runs = onnxruntime_cpu.session(made[0]), onnxruntime_cpu.session(graph, optimize=optimize)
    return distance(*(outputs(run, made[3]) for run in runs))


def test_weighted_layers_run_in_8_bits_and_what_is_between_them_stays_float(made):
    kernels, proof = candidates.proved(made[1])
    assert not proof.unexplained and set(proof.float_layers.values()) <= {"its output stays float"}
    assert proof.asked - proof.int8 <= 1  # the last layer, whose output is the graph's
    assert kernels["QLinearConv"] == 3 and kernels["QLinearAdd"] == 1 and kernels["MatMulIntegerToFloat"] >= 8
    layers = qdq.layers(onnx.load(made[1]))
    kinds = {layer.kind for layer in layers}
    assert {"wide", "depth", "narrow", "head.0"} <= {layer.label for layer in layers}
    assert any(layer.label.startswith("see.layers.0.mlp.fc1") for layer in layers)
    assert kinds <= {"Conv", "Gemm", "MatMul", "Add"}
    assert len(proof.open_pairs) <= 1  # in front of that layer


def test_masks_are_in_no_range_and_the_outputs_are_those_of_fp32(made):
    wiring = Wiring(onnx.load(made[1]))
    scales = [wiring.value(node.input[1]) for node in wiring.nodes if node.op_type == "QuantizeLinear"]
    assert scales and max(float(scale.max()) for scale in scales) < 1
    assert 0 < far(made[1], made) < 0.02
    assert abs(far(made[1], made) - far(made[1], made, optimize=False)) < 0.01


def test_openvino_gives_the_same_and_symmetric_codes_little_else(made, tmp_path):
    expected = outputs(onnxruntime_cpu.session(made[0]), made[3])
    model = onnx.load(made[1])
    # OpenVINO 2026.4 gives each tower of the whole INT8 graph right by itself, and the picture's wrong beside the text's, with
    # its low-precision passes off, too; with the convolutions in float, both. The cause is not known: what it costs is judged
    # on the backend itself.
    convolutions = [layer.name for layer in qdq.layers(model) if layer.kind in ("Conv", "Add")]
    onnx.save(qdq.restored(model, onnx.load(made[0]), convolutions), tmp_path / "part.onnx")
    assert distance(expected, outputs(openvino_cpu.session(tmp_path / "part.onnx"), made[3])) < 0.02
    assert precision.to_symmetric(made[1], tmp_path / "s.onnx") > 5
    assert far(tmp_path / "s.onnx", made, optimize=False) < 0.05


def test_an_embedding_is_looked_up_in_8_bits_and_a_tied_one_stays(made):
    stored = {tensor.name: tensor for tensor in onnx.load(made[1]).graph.initializer}
    table = next(name for name in stored if "word_embeddings" in name and name.endswith(".rows"))
    assert stored[table].data_type == onnx.TensorProto.INT8
    model = onnx.load(made[0])
    words = next(node for node in model.graph.node if node.op_type == "Gather" and "word" in node.input[0])
    assert words.name in {node.name for node in placement.structure.embeddings(Wiring(model))}
    model.graph.node.append(onnx.helper.make_node("Transpose", [words.input[0]], ["tied"], "tied"))
    assert words.name not in {node.name for node in placement.structure.embeddings(Wiring(model))}


def test_what_is_not_calibrated_answers_nearly_the_same_and_makes_no_table_float(made, tmp_path):
    assert dynamic.int8(made[0], tmp_path / "dynamic.onnx") == 14
    kernels = precision.int8_kernels(precision.optimized(tmp_path / "dynamic.onnx"))
    assert kernels.get("DynamicQuantizeMatMul", 0) + kernels.get("MatMulIntegerToFloat", 0) == 14
    assert weights.weights_only(made[0], tmp_path / "weights.onnx") > 14
    for name in ("dynamic", "weights"):
        assert 0 < far(tmp_path / f"{name}.onnx", made) < 0.02
        read = {node.input[0] for node in onnx.load(tmp_path / f"{name}.onnx").graph.node if node.op_type == "Gather"}
        assert any("word_embeddings" in table and table.endswith(".rows") for table in read)
    model = onnx.load(made[0])
    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("Flatten", ["picture"], ["y"], "flat"))
    onnx.save(model, tmp_path / "flat.onnx")
    with pytest.raises(MmedgeError, match="no linear layer"):
        dynamic.int8(tmp_path / "flat.onnx", tmp_path / "q.onnx")


def test_a_smoothed_graph_computes_the_same_with_a_multiplication_more_where_sums_read_a_norm(made, tmp_path):
    assert smoothing.smooth(made[0], tmp_path / "smooth.onnx", made[2]) == 4
    before, after = (onnx.load(path).graph.node for path in (made[0], tmp_path / "smooth.onnx"))
    added = [node.op_type for node in after if node.name not in {each.name for each in before}]
    assert added == ["Mul"] * 2  # BERT's; a ViT's are read by its layers alone
    assert far(tmp_path / "smooth.onnx", made) < 1e-8
    read = [name for node in onnx.load(made[1]).graph.node for name in node.input if name.endswith(".smooth")]
    assert len(set(read)) == 2  # int8 is made of it


def test_a_channel_far_beyond_the_others_is_taken_down_and_the_graph_computes_the_same(made, tmp_path):
    model = onnx.load(made[0])
    wiring = Wiring(model)
    gelu = next(node for node in wiring.nodes if node.op_type == "Gelu")
    linear = wiring.readers[gelu.output[0]][0]
    assert smoothing.relieve(made[0], tmp_path / "as_it_is.onnx", made[2][:8]) == 0
    bias = wiring.readers[wiring.made_by[wiring.made_by[gelu.input[0]].input[0]].output[0]][0].input
    stored = next(tensor for tensor in model.graph.initializer if tensor.name in bias)
    value = onnx.numpy_helper.to_array(stored).copy()
    value[3] += 40
    stored.CopyFrom(onnx.numpy_helper.from_array(value, stored.name))
    onnx.save(model, tmp_path / "far.onnx")
    assert smoothing.relieve(tmp_path / "far.onnx", tmp_path / "relieved.onnx", made[2][:8]) >= 1
    runs = [onnxruntime_cpu.session(tmp_path / f"{name}.onnx") for name in ("far", "relieved")]
    assert distance(*(outputs(run, made[3]) for run in runs)) < 1e-8
    assert any(linear.name in name for name in Wiring(onnx.load(tmp_path / "relieved.onnx")).constants)


def test_layers_of_a_graph_whose_sizes_are_all_known_run_in_8_bits_too(made, tmp_path):
    model = onnx.load(made[0])
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    ptq.int8(tmp_path / "one.onnx", tmp_path / "int8.onnx", made[2], "int8")
    kernels, proof = candidates.proved(tmp_path / "int8.onnx")
    # Of two layers of attention: the three projections are one.
    assert proof.asked - proof.int8 <= 1 and kernels["MatMulIntegerToFloat"] >= 8


@pytest.mark.long
def test_layers_of_a_transformer_go_back_to_the_graph_that_they_were_made_of_and_to_no_other(made, tmp_path):
    source = prepared(made[0], tmp_path / "prepared.onnx", made[2])
    quantized, fp32 = onnx.load(made[1]), onnx.load(source.graph)
    names = [layer.name for layer in qdq.layers(quantized)]
    back = qdq.restored(quantized, fp32, names)
    stored, own = ({name: wiring.value(name) for name in wiring.constants} for wiring in (Wiring(back), Wiring(fp32)))
    weights = {node.input[1]: original.input[1] for node, original in zip(
        *([each for each in model.graph.node if each.name in names and each.op_type in ("Gemm", "MatMul", "Conv")]
          for model in (back, fp32)))}  # fmt: skip
    assert len(weights) > 8 and all(np.array_equal(stored[a], own[b]) for a, b in weights.items())
    assert not {node.op_type for node in back.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    onnx.save(back, tmp_path / "back.onnx")
    assert far(tmp_path / "back.onnx", made) < 1e-3  # embeddings stay in 8 bits


def test_no_layer_for_8_bits_is_told(made, tmp_path):
    model = onnx.load(made[0])
    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("Flatten", ["picture"], ["y"], "flat"))
    onnx.save(model, tmp_path / "flat.onnx")
    with pytest.raises(MmedgeError, match="no layer has stored weights"):
        placement.int8(tmp_path / "flat.onnx", tmp_path / "q.onnx", made[2], Form())
    with pytest.raises(MmedgeError, match="int8-bias is what int8 is"):
        ptq.int8(made[0], tmp_path / "q.onnx", made[2], "int8-bias")
