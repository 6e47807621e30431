"""What a reduction gives a linear layer, in a form that OpenVINO answers rightly once it has codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmedge.graph import structure
from mmedge.graph.wiring import Wiring, integer_of, put_nodes


def keep_axes(model: Any) -> int:
    """Keep, in place, the axes of the reductions that linear layers read, and squeeze them behind; returns of how many.

    A mean of [batch, tokens, channels] that takes the axis away at once is one kernel with the factors a channel (a norm's in
    front of it, an outlier's behind) and the codes in OpenVINO 2026.4, which takes those of other channels.
    """
    from onnx import helper, numpy_helper

    wiring = Wiring(model)
    layers = [node for node in structure.weighted(wiring) if node.op_type != "Conv"]
    read = {structure.moved_from(node.input[0], wiring) for node in layers}
    nodes, count = [], 0
    for node in wiring.nodes:
        nodes.append(node)
        axes = _removed(node, wiring) if node.output and node.output[0] in read else None
        if axes is None:
            continue
        count += 1
        output, kept, name = node.output[0], f"{node.output[0]}.kept", f"{node.output[0]}.axes"
        node.output[0] = kept
        next(attribute for attribute in node.attribute if attribute.name == "keepdims").i = 1
        model.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), name))
        nodes.append(helper.make_node("Squeeze", [kept, name], [output], f"{output}.squeezed"))
    if count:
        put_nodes(model.graph, nodes)
        del model.graph.value_info[:]
    return count


def _removed(node: Any, wiring: Wiring) -> list[int] | None:
    """The stored axes that a reduction takes away; None where it keeps them, or computes which."""
    keeps = integer_of(node, "keepdims", 1)
    if not node.op_type.startswith("Reduce") or keeps:
        return None
    return wiring.reduced_axes(node)
