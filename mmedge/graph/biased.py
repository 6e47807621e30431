"""Biases of linear layers in a form that OpenVINO answers rightly."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmedge.graph import structure
from mmedge.graph.qdq import CORRECTED
from mmedge.graph.simpler import sizes_of
from mmedge.graph.wiring import PASSING, QUANTIZE, Wiring

# What OpenVINO computes in the kernel of the layer in front.
_FOLDED = ("Relu", "Clip", "Add", *PASSING)


def make_uneven(model: Any) -> int:
    """Give linear layers of two axes whose outputs get codes, and that have no bias or one number for all outputs, a bias that
    is next to that and uneven, in place; returns how many.

    OpenVINO 2026.4 gives one constant for all that such a layer is given. On ONNX Runtime it costs nothing, since QGemm takes
    it; where a layer's output stays float it would cost the layer its kernel.
    """
    from onnx import numpy_helper

    wiring, sizes, count = Wiring(model), sizes_of(model), 0
    for node in wiring.nodes:
        weight = wiring.weight(node) if structure.is_flat(node, sizes) else None
        if weight is None or weight[0] != 1 or not _is_coded(node.output[0], wiring):
            continue
        holder, place = structure.bias_of(node, wiring) or (node, 2)
        if len(holder.input) > place and holder.input[place] not in wiring.constants:
            continue
        outputs = wiring.stored_weight(weight[1]).shape[0 if structure.outputs_first(node) else 1]
        bare = len(holder.input) == place
        name = weight[1].input[0] if bare else holder.input[place]
        bias = np.zeros(outputs, np.float32) if bare else wiring.value(name).ravel()
        if bias.size not in (1, outputs) or np.ptp(bias) > 0 or not np.isfinite(bias).all():
            continue
        bias = np.repeat(bias[:1], outputs)
        bias[0] += 1e-30 + 1e-6 * abs(bias[0])
        if bare:
            node.op_type = "Gemm"
            node.input.append("")
        holder.input[place] = f"{name}{CORRECTED}{node.name}"  # a layer is called by what is in front of it
        model.graph.initializer.append(numpy_helper.from_array(bias, holder.input[place]))
        count += 1
    return count


def _is_coded(tensor: str, wiring: Wiring) -> bool:
    """Whether what is made of a tensor in one kernel gets codes, and nothing else reads it."""
    readers = wiring.readers.get(tensor, [])
    return bool(readers) and all(
        each.op_type == QUANTIZE or (each.op_type in _FOLDED and _is_coded(each.output[0], wiring)) for each in readers
    )
