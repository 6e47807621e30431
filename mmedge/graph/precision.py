"""The precision of an ONNX graph: FP16 conversion, symmetric Q/DQ for TensorRT, and proof of what a runtime made of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

# ONNX Runtime's fused kernels that compute in 8 bits; what stays Quantize/Dequantize around a float kernel is not one.
_INT8_KERNELS = (
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "ConvInteger",
    "QLinearAdd",
    "QLinearMul",
    "QLinearConcat",
    "QLinearGlobalAveragePool",
    "QLinearAveragePool",
)


def to_fp16(graph: Path, target: Path) -> None:
    """Write the FP16 form of an FP32 graph; inputs and outputs stay FP32, so that callers need not care."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = convert_float_to_float16(onnx.load(graph), keep_io_types=True)
    OnnxModel(model).topological_sort()  # the converter appends its casts at the end
    onnx.checker.check_model(model)
    onnx.save(model, target)


def to_symmetric(graph: Path, target: Path) -> int:
    """Write a Q/DQ graph with symmetric int8 activations, as TensorRT takes them; returns how many tensors changed.

    NNCF gives the outputs of a ReLU uint8 codes with zero point 0. The same range in int8 with zero point 0 has half
    the codes: scale times 255/127. Raises ValueError for a zero point other than 0, which has no symmetric form.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    changed: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        scale, zero = stored[node.input[1]], stored[node.input[2]]
        if zero.name not in changed and numpy_helper.to_array(zero).dtype != np.uint8:
            continue
        if zero.name not in changed and numpy_helper.to_array(zero).any():
            raise ValueError(f"{node.name} has a zero point other than 0")
        for tensor, value in (
            (scale, numpy_helper.to_array(scale) * np.float32(255 / 127)),
            (zero, np.zeros(tuple(zero.dims), np.int8)),
        ):
            if tensor.name not in changed:
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, value.dtype), tensor.name))
                changed.add(tensor.name)
    del model.graph.value_info[:]  # NNCF notes the tensors' types there, uint8 among them
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
    return len(changed) // 2


def int8_kernels(graph: Path, folder: Path) -> dict[str, int]:
    """How many 8-bit kernels ONNX Runtime really runs for a graph, by type, read from its own optimised graph.

    ``folder``: where the optimised graph is written for a moment.
    """
    import onnx
    import onnxruntime

    optimized = folder / "optimized.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    try:
        counts = Counter(node.op_type for node in onnx.load(optimized, load_external_data=False).graph.node)
    finally:
        optimized.unlink(missing_ok=True)
    return {name: counts[name] for name in _INT8_KERNELS if counts[name]}
