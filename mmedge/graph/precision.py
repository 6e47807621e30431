"""The precision of an ONNX graph: FP16 conversion, symmetric Q/DQ for TensorRT, and proof of what a runtime made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError, first_line
from mmedge.leftovers import scratch

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

# The zero point of uint8 codes that stand for as many values below as above it.
MIDDLE = 128


def to_fp16(graph: Path, target: Path) -> None:
    """Write the FP16 form of an FP32 graph; inputs and outputs stay FP32, so that callers need not care.

    Raises MmedgeError where the converter makes no valid graph of it: of branches (If, Loop) above all.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    try:
        model = convert_float_to_float16(onnx.load(graph), keep_io_types=True)
        OnnxModel(model).topological_sort()  # the converter appends its casts at the end
        onnx.checker.check_model(model)
    except Exception as error:  # the converter raises what its accesses run into, the checker its own
        reason = first_line(error)
        raise MmedgeError(f"the graph cannot be converted to FP16: {reason}", where=str(graph)) from error
    onnx.save(model, target)


def to_one_type(graph: Path) -> int:
    """Rewrite a Q/DQ graph's int8 activations as uint8 around 128, in place; returns how many. Same scales, same values.

    ONNX Runtime fuses a convolution only where its input and its output have codes of one type, and NNCF gives uint8 to
    what comes out of a ReLU and int8 to all else: the linear layers of a residual network would run in float.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    names = {
        node.input[2]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in stored and len(node.input) > 2
    }
    signed = {name for name in names if stored[name].data_type == onnx.TensorProto.INT8}
    signed = {name for name in signed if not numpy_helper.to_array(stored[name]).any()}
    _recode(model, signed, np.float32(1), np.uint8, MIDDLE)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, graph)
    return len(signed)


def to_symmetric(graph: Path, target: Path) -> int:
    """Write a Q/DQ graph with symmetric int8 activations, as TensorRT takes them; returns how many tensors changed.

    uint8 around 128 is that but for the type. Any other zero point gives codes to a range that is not symmetric, as the
    outputs of a ReLU have: the symmetric one that holds it has fewer steps, and a scale of its own.
    """
    import onnx

    model = onnx.load(graph)
    points = _zero_points(model)
    for point, names in points.items():
        _recode(model, names, _widened(point), np.int8, 0)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
    return len(set().union(*points.values()))


def to_unsigned(graph: Path, like: Path, target: Path) -> None:
    """Undo ``to_symmetric`` for the tensors that are uint8 in ``like``, which ``graph`` was made of: the same range in
    255 steps where they begin at 0. ONNX Runtime fuses a ReLU with its convolution only so: it drops a ReLU whose codes
    begin at 0."""
    import onnx

    model = onnx.load(graph)
    for point, names in _zero_points(onnx.load(like)).items():
        _recode(model, names, np.float32(1) / _widened(point), np.uint8, point)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def _widened(point: int) -> np.float32:
    """How many times as large the steps are of the symmetric range that holds one whose zero has this uint8 code."""
    return np.float32(1 if point == MIDDLE else max(point, 255 - point) / 127)


def _zero_points(model: Any) -> dict[int, set[str]]:
    """{zero point: the names of the stored tensors that hold it} of uint8 codes; ValueError where one has several."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[int, set[str]] = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
            value = numpy_helper.to_array(stored[node.input[2]])
            if value.dtype == np.uint8:
                if np.ptp(value):
                    raise ValueError(f"{node.name} has several zero points")
                found.setdefault(int(value.flat[0]), set()).add(node.input[2])
    return found


def _recode(model: Any, zero_points: set[str], factor: np.float32, dtype: Any, zero: int) -> None:
    """Give zero points another type and value, and the scales beside them a factor, in place."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {
        node.input[1]
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        and len(node.input) > 2
        and node.input[2] in zero_points
    }
    for name in scales:
        value = numpy_helper.to_array(stored[name]) * factor
        stored[name].CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), name))
    for name in zero_points:
        stored[name].CopyFrom(numpy_helper.from_array(np.full(tuple(stored[name].dims), zero, dtype), name))
    del model.graph.value_info[:]  # NNCF notes the tensors' types there, uint8 among them


def optimized(graph: Path, *, everything: bool = True, without: Sequence[str] = ()) -> Any:
    """The loaded model that ONNX Runtime makes of a graph on this CPU, with all of its fusions or those of any machine.

    The latter are such as of constants and batch norms. ``without``: fusions that are left out, by name.
    """
    import onnx
    import onnxruntime

    with scratch() as folder:
        written = folder / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(written)
        options.log_severity_level = 3
        if not everything:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
        )
        return onnx.load(written, load_external_data=False)


def int8_kernels(optimised: Any) -> dict[str, int]:
    """How many 8-bit kernels ONNX Runtime really runs, by type, in the model that ``optimized`` gave."""
    counts = Counter(node.op_type for node in optimised.graph.node)
    return {name: counts[name] for name in _INT8_KERNELS if counts[name]}
