"""Q/DQ graphs with a scale that is wrong."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


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
