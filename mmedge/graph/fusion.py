"""Ranges that a quantizer's statistics get wrong: of tensors of few values, and where modalities share a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.graph.wiring import Wiring
from mmedge.report.schema import FusionPointRecord

# A shared scale this many times a modality's own costs it one bit: then the modality keeps its own.
WASTE = 2.0
_SAMPLES = 64
# A tensor of so few values a sample is quantized by the extremes of all samples.
_FEW = 32


def widen_few(quantized: Path, reference: Path, inputs: Sequence[Mapping[str, np.ndarray]]) -> int:
    """Give tensors of few values the range that their values have, in place; returns how many needed it.

    A range is the mean of each sample's extremes. That leaves out the rare large values of a map of thousands, and a
    third of all values where a sample has two, as a table's numbers do. ``inputs``: calibration samples, of which 64
    are looked at.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(quantized)
    wiring = Wiring(model)
    pairs = [
        node for node in wiring.nodes if node.op_type == "QuantizeLinear" and node.input[0] not in wiring.constants
    ]
    given = {value.name for value in model.graph.input}
    made = [node.input[0] for node in pairs if node.input[0] not in given]
    # One sample tells which are small: the maps of a large network, for all samples, would fill the memory.
    sizes = {name: first.size for name, (first,) in _values(reference, made, inputs[:1]).items()} if inputs else {}
    found = _values(reference, [name for name, size in sizes.items() if size <= _FEW], inputs)
    found |= {name: [sample[name] for sample in inputs[:_SAMPLES]] for name in given if inputs and name in inputs[0]}
    changed = 0
    for node in pairs:
        samples = found.get(node.input[0], [])
        scale, zero = wiring.value(node.input[1]), wiring.value(node.input[2])
        if scale.size != 1 or not samples or max(sample.size for sample in samples) > _FEW:
            continue
        limits = np.iinfo(zero.dtype)
        lowest = min(float(sample.min(initial=0)) for sample in samples)
        highest = max(float(sample.max(initial=0)) for sample in samples)
        ends = ((highest, limits.max - int(zero)), (lowest, limits.min - int(zero)))
        own = max(end / codes for end, codes in ends if codes)  # values of one sign have codes on one side of 0 alone
        if own > float(scale):
            _own_scale(model, wiring, node, np.float32(own), numpy_helper)
            changed += 1
    if changed:
        onnx.checker.check_model(model)
        onnx.save(model, quantized)
    return changed


def keep_apart(quantized: Path, reference: Path, inputs: Sequence[Mapping[str, np.ndarray]]) -> list[FusionPointRecord]:
    """Give a modality its own scale where the one that it shares in a Concat wastes its codes; returns one row an input.

    Quantizers unify the scales of a Concat's inputs, so that codes can be joined without computing. ``quantized`` is
    rewritten only where an input is kept apart. ``inputs``: {input: [1, *shape]} of calibration samples, of which 64 are
    looked at.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(quantized)
    joins = _joins(model)
    values = _values(reference, sorted({source for _, _, _, source in joins}), inputs)
    wiring = Wiring(model)
    rows, rewritten = [], False
    for node, branch, quantize, source in joins:
        if source not in values:
            continue
        scale, zero = wiring.value(quantize.input[1]), wiring.value(quantize.input[2])
        if scale.size != 1:
            continue
        lowest, highest = (limit - int(zero) for limit in (np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max))
        extremes = [float(np.abs(sample).max(initial=0)) for sample in values[source]]
        # The largest, not the mean: what is clipped here costs more than a few codes do.
        own = float(np.max(extremes)) / (highest or -lowest) or float(scale)
        apart = node.op_type == "Concat" and float(scale) / own >= WASTE
        if apart:  # Q and DQ have the one scale in common; another modality's pair has a tensor of its own
            _own_scale(model, wiring, quantize, np.float32(own), numpy_helper)
            rewritten = True
        used = np.concatenate([sample.ravel() for sample in values[source]]) / (own if apart else float(scale))
        codes = np.clip(np.round(used), lowest, highest)
        rows.append(
            FusionPointRecord(
                node=node.name,
                kind=node.op_type,
                branch=branch,
                scale=float(scale),
                own_scale=own,
                codes=float((codes.max() - codes.min() + 1) / 256),
                clipped=float(((used > highest) | (used < lowest)).mean()),
                apart=bool(apart),
            )
        )
    if rewritten:
        onnx.checker.check_model(model)
        onnx.save(model, quantized)
    return rows


def _joins(model: Any) -> list[tuple[Any, str, Any, str]]:
    """(joining node, branch, QuantizeLinear, its float tensor) of each quantized input that one modality alone reaches.

    Nodes that join several modalities have such inputs.
    """
    reached = {value.name: frozenset({value.name}) - {"present"} for value in model.graph.input}
    wiring = Wiring(model)
    found = []
    for node in wiring.nodes:
        sets = [reached.get(name, frozenset()) for name in node.input]
        reached |= dict.fromkeys(node.output, frozenset().union(*sets))
        single = {next(iter(sources)) for sources in sets if len(sources) == 1}
        if len(single) < 2:
            continue
        for name, sources in zip(node.input, sets):
            dequantize = wiring.dequantized(name)
            quantize = wiring.made_by.get(dequantize.input[0]) if dequantize is not None else None
            if len(sources) == 1 and quantize is not None:
                found.append((node, next(iter(sources)), quantize, quantize.input[0]))
    return found


def _values(
    graph: Path, tensors: Sequence[str], inputs: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, list[np.ndarray]]:
    """{tensor: its value for each of the first samples}, of those that the graph has."""
    import onnx

    model = onnx.load(graph)
    made = {name for node in model.graph.node for name in node.output}
    wanted = [name for name in tensors if name in made]
    if not wanted:
        return {}
    taken = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in taken)
    run = onnxruntime_cpu.session(model.SerializeToString())
    outputs = [run(sample) for sample in inputs[:_SAMPLES]]
    return {name: [output[name] for output in outputs] for name in wanted}


def _own_scale(model: Any, wiring: Wiring, quantize: Any, scale: np.float32, numpy_helper: Any) -> None:
    name = f"{quantize.name}.own_scale"
    tensor = next((each for each in model.graph.initializer if each.name == name), None)
    tensor = model.graph.initializer.add() if tensor is None else tensor
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(scale, np.float32), name))
    quantize.input[1] = name
    for reader in wiring.readers.get(quantize.output[0], []):
        if reader.op_type == "DequantizeLinear":
            reader.input[1] = name
