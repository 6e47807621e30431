"""A small bundle written with onnx alone: image and vitals, a vector in place of what is absent, three classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmedge import artifact
from mmedge.contract import Contract
from mmedge.graph import cut

CONTRACT = Contract.model_validate(
    {
        "task": "classification",
        "modalities": {
            "image": {"kind": "image", "height": 8, "width": 8, "channels": 1, "mean": [0.5], "std": [0.25]},
            "vitals": {"kind": "tabular", "columns": ["a", "b", "c"], "mean": [0, 0, 0], "std": [1, 1, 1]},
        },
        "labels": ["no", "maybe", "yes"],
    }
)


def write_graph(path: Path, channels: int = 16) -> None:
    """Two encoders of [batch, 8] features, Where with ``present``, Concat, Gemm."""
    random = np.random.default_rng(0)
    stored = {
        "conv": random.normal(size=(channels, 1, 3, 3)) / 3,
        "conv2": random.normal(size=(channels, channels, 3, 3)) / 12,
        "image_w": random.normal(size=(channels, 8)) / 4,
        "vitals_w": random.normal(size=(3, 8)),
        "absent_image": random.normal(size=(8,)),
        "absent_vitals": random.normal(size=(8,)),
        "head": random.normal(size=(16, 3)),
        "bias": random.normal(size=(3,)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "conv"], ["c1"], "conv_1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu_1"),
        helper.make_node("Conv", ["r1", "conv2"], ["c2"], "conv_2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu_2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "image_w"], ["image_f"], "image_linear"),
        helper.make_node("MatMul", ["vitals", "vitals_w"], ["vitals_f"], "vitals_linear"),
        helper.make_node("Slice", ["present", "zero", "one", "one"], ["has_image"], "slice_image"),
        helper.make_node("Slice", ["present", "one", "two", "one"], ["has_vitals"], "slice_vitals"),
        helper.make_node("Where", ["has_image", "image_f", "absent_image"], ["image_e"], "where_image"),
        helper.make_node("Where", ["has_vitals", "vitals_f", "absent_vitals"], ["vitals_e"], "where_vitals"),
        helper.make_node("Concat", ["image_e", "vitals_e"], ["cat"], "cat", axis=1),
        helper.make_node("Gemm", ["cat", "head", "bias"], ["logits"], "head_linear"),
    ]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()]
    tensors += [numpy_helper.from_array(np.array([n], np.int64), name) for n, name in enumerate(("zero", "one", "two"))]
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8]),
            helper.make_tensor_value_info("vitals", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("present", TensorProto.BOOL, ["batch", 2]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_bundle(path: Path) -> Path:
    """The graph, an engine for each modality alone, and encoders and head apart."""
    with artifact.creating(path, stage="bundle", key="small", parent=None) as (folder, meta):
        write_graph(folder / "model.onnx")
        (folder / "subsets").mkdir()
        for name in CONTRACT.modalities:
            cut.subset_graph(folder / "model.onnx", CONTRACT, [name], folder / f"subsets/{name}.onnx")
        embeddings = cut.split_graph(folder / "model.onnx", CONTRACT, folder / "split")
        meta |= {
            "name": "small",
            "contract": CONTRACT.model_dump(mode="json", by_alias=True),
            "targets": {
                "onnxruntime-cpu": {
                    "precision": "fp32",
                    "subsets": {name: f"subsets/{name}.onnx" for name in CONTRACT.modalities},
                    "split": {
                        "files": {part: f"split/{part}.onnx" for part in (*CONTRACT.modalities, "fusion")},
                        "embeddings": embeddings,
                    },
                }
            },
            "figures": {},
        }
    return path
