"""Weights alone in 8 or 4 bits: a smaller file whose arithmetic stays float, and nothing to calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError, first_line
from mmedge.graph import placement, structure
from mmedge.graph.wiring import Wiring, drop_unread, opset_of, put_nodes

# Weights of fewer values are left as they are: scales and nodes would cost more than they save.
_WORTH = 128
# Inputs of an output that share a scale of 4-bit codes: the first that divides them, since OpenVINO takes no block that is
# not full; and the opset from which ONNX has both.
_BLOCKS, _OPSET = (32, 16), 21


def weights_only(graph: Path, target: Path, bits: int = 8) -> int:
    """Write a graph whose larger weights have codes of ``bits``, 8 or 4, dequantized where they are used; returns how many.

    Symmetric int8 codes with a scale an output channel, which all targets take; with 4 bits linear layers have int4 codes
    with a scale for each 32 or 16 inputs of an output, those of another width 8 bits. ONNX Runtime runs linear layers of
    either as MatMulNBits, OpenVINO decompresses as it multiplies. Embeddings are looked up in 8 bits. Raises MmedgeError
    where no weight is large enough, the graph cannot be written in the opset that has 4 bits, or none gets them.
    """
    import onnx

    model = onnx.load(graph)
    model = _with_int4(model) if bits == 4 else model
    wiring = Wiring(model)
    tables = {node.name for node in structure.embeddings(wiring)}
    nodes: list[Any] = []
    done: dict[tuple[str, int | None], str] = {}  # {(weights, the axis of outputs of 4-bit ones): what is read instead}
    for node in wiring.nodes:
        if node.name and node.name in tables and placement.worth_coding(wiring.value(node.input[0])):
            tensors, lookups = placement.looked_up(node, wiring.value(node.input[0]))
            model.graph.initializer.extend(tensors if (node.input[0], None) not in done else [])
            done[node.input[0], None] = lookups[-1].output[0]
            nodes += lookups
            continue
        for index, name in enumerate(node.input[:2]):
            axis = _channel_axis(node, index)
            if axis is None or not _is_worth(name, wiring):
                continue
            outputs = axis % 2 if bits == 4 and _block(node, name, wiring) else None
            if (name, outputs) not in done:
                block = _block(node, name, wiring)
                made = _by_channel(name, axis, wiring) if outputs is None else _in_blocks(name, outputs, block, wiring)
                model.graph.initializer.extend(made[0])
                nodes.append(made[1])
                done[name, outputs] = made[1].output[0]
            node.input[index] = done[name, outputs]
            if outputs is not None:
                _read_as_stored(node)
        nodes.append(node)
    if not done:
        raise MmedgeError(f"no weight has {_WORTH} values or more: codes would not make the file smaller")
    if bits == 4 and all(outputs is None for _, outputs in done):
        raise MmedgeError(f"no linear layer reads a multiple of {_BLOCKS[-1]} values, as blocks of 4-bit weights do")
    put_nodes(model.graph, nodes)
    drop_unread(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
    return len(done)


def _with_int4(model: Any) -> Any:
    """The model in an opset that has 4-bit codes in blocks."""
    from onnx import version_converter

    opset = opset_of(model, 1)
    if opset >= _OPSET:
        return model
    try:
        return version_converter.convert_version(model, _OPSET)
    except Exception as error:  # the converter raises RuntimeError and errors of its own
        reason = first_line(error)
        raise MmedgeError(
            f"4-bit weights need opset {_OPSET}, and the graph of opset {opset} does not convert: {reason}"
        ) from error


def _is_worth(name: str, wiring: Wiring) -> bool:
    stored = wiring.constants.get(name)
    if stored is None or len(stored.dims) < 2 or np.prod(stored.dims) < _WORTH:
        return False
    value = wiring.value(name)
    return value.dtype == np.float32 and bool(np.isfinite(value).all())


def _block(node: Any, name: str, wiring: Wiring) -> int:
    """How many inputs of a linear layer's output share a scale of 4-bit codes; 0 where it can have none."""
    dims = list(wiring.constants[name].dims)
    if node.op_type not in ("MatMul", "Gemm") or len(dims) != 2:
        return 0
    inputs = dims[1 - (_channel_axis(node, 1) or 0) % 2]
    return next((block for block in _BLOCKS if inputs % block == 0), 0)


def _by_channel(name: str, axis: int, wiring: Wiring) -> tuple[list[Any], Any]:
    """(stored tensors, DequantizeLinear) of int8 codes with a scale for each index of ``axis``."""
    from onnx import helper, numpy_helper

    value = wiring.value(name)
    axis = axis % value.ndim
    codes, scale = placement.coded(value, axis, 127)
    parts = {"q": codes, "scale": scale}
    tensors = [numpy_helper.from_array(part, f"{name}.{key}") for key, part in parts.items()]
    output = f"{name}.dq"
    return tensors, helper.make_node(
        "DequantizeLinear", [f"{name}.{key}" for key in parts], [output], output, axis=axis
    )


def _in_blocks(name: str, axis: int, block: int, wiring: Wiring) -> tuple[list[Any], Any]:
    """(stored tensors, DequantizeLinear) of int4 codes [inputs, outputs] with a scale a block of inputs; ``axis``: of outputs."""
    import ml_dtypes
    from onnx import helper, numpy_helper

    value = wiring.value(name)
    value = value.T if axis == 0 else value
    by_block = value.reshape(-1, block, value.shape[1])
    scale = np.maximum(np.abs(by_block).max(axis=1) / np.float32(7), np.float32(1e-10))
    codes = np.clip(np.round(by_block / scale[:, None]), -8, 7).reshape(value.shape)
    stored = {f"{name}.{axis}.q4": codes.astype(ml_dtypes.int4), f"{name}.{axis}.scale4": scale}
    tensors = [numpy_helper.from_array(part, key) for key, part in stored.items()]
    output = f"{name}.{axis}.dq4"
    return tensors, helper.make_node("DequantizeLinear", list(stored), [output], output, axis=0, block_size=block)


def _read_as_stored(node: Any) -> None:
    """Codes in blocks are stored [inputs, outputs], whatever a Gemm's weights were."""
    kept = [attribute for attribute in node.attribute if attribute.name != "transB"]
    del node.attribute[:]
    node.attribute.extend(kept)


def _channel_axis(node: Any, index: int) -> int | None:
    """The axis of a weight that has a scale each: output channels, or the rows of an embedding."""
    match node.op_type, index:
        case ("Conv", 1) | ("Gather", 0):
            return 0
        case ("ConvTranspose", 1):
            return 1
        case ("Gemm", 1):
            return 0 if structure.outputs_first(node) else 1
        case ("MatMul", 1):
            return -1
    return None
