"""A bundle of image and audio whose every preprocessed value moves the answer: a linear map of both."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmedge import artifact
from mmedge.contract import Contract

CONTRACT = Contract.model_validate(
    {
        "task": "classification",
        "modalities": {
            "image": {"kind": "image", "height": 12, "width": 10, "channels": 1, "mean": [0.4], "std": [0.3]},
            "audio": {"kind": "audio", "sample_rate": 8000, "mels": 16, "frames": 20, "hop_ms": 16, "window_ms": 32, "mean": [12.0] * 16, "std": [4.0] * 16},
        },
        "labels": ["a", "b", "c", "d"],
    }
)  # fmt: skip


def write_bundle(path: Path, contract: Contract = CONTRACT) -> Path:
    random, nodes, tensors, inputs = np.random.default_rng(0), [], [], []
    for index, (name, spec) in enumerate(contract.modalities.items()):
        size = int(np.prod(spec.shape))
        tensors += [
            numpy_helper.from_array((random.normal(size=(size, 4)) / size**0.5).astype(np.float32), f"{name}_w"),
            numpy_helper.from_array(np.zeros((1, 4), np.float32), f"{name}_absent"),
            numpy_helper.from_array(np.array([index], np.int64), f"{name}_k"),
            numpy_helper.from_array(np.array([index + 1], np.int64), f"{name}_k1"),
        ]
        nodes += [
            helper.make_node("Flatten", [name], [f"{name}_flat"], f"{name}_flatten"),
            helper.make_node("MatMul", [f"{name}_flat", f"{name}_w"], [f"{name}_y"], f"{name}_linear"),
            helper.make_node("Slice", ["present", f"{name}_k", f"{name}_k1", "axis"], [f"{name}_has"], f"{name}_slice"),
            helper.make_node("Where", [f"{name}_has", f"{name}_y", f"{name}_absent"], [f"{name}_e"], f"{name}_where"),
        ]
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *spec.shape]))
    nodes.append(helper.make_node("Add", ["image_e", "audio_e"], ["logits"], "add"))
    tensors.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    inputs.append(helper.make_tensor_value_info("present", TensorProto.BOOL, ["batch", 2]))
    out = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])]
    model = helper.make_model(
        helper.make_graph(nodes, "linear", inputs, out, tensors),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    with artifact.creating(path, stage="bundle", key="linear", parent=None) as (folder, meta):
        onnx.save(model, folder / "model.onnx")
        meta |= {
            "name": "linear",
            "contract": contract.model_dump(mode="json", by_alias=True),
            "targets": {"onnxruntime-cpu": {"precision": "fp32"}},
            "figures": {},
        }
    return path


def write_sound(path: Path, seconds: float = 0.3) -> None:
    """A sweep with some noise, 8 kHz, 16 bits."""
    random, time = np.random.default_rng(2), np.arange(int(8000 * seconds)) / 8000
    samples = 8000 * np.sin(2 * np.pi * (200 + 2000 * time) * time) + random.normal(0, 500, len(time))
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(samples.astype("<i2").tobytes())
