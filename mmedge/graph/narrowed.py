"""The graph of a narrower network, of its parent's: what is timed need not be exported, which takes seconds a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import nn

from mmedge.backends import onnxruntime_cpu

# The axis of a convolution's weight that its outputs are; of a transposed one in groups it is told by the run below.
_OUTPUTS = {"Conv": 0, "ConvTranspose": 1}
_LEARNED = "module."  # before a parameter's name, in the graphs that graph/export.py writes


def narrowed(graph: Path, module: nn.Module, inputs: Mapping[str, np.ndarray], path: Path) -> bool:
    """Write ``graph`` to ``path`` with the sizes of ``module``, a narrower copy of the network of which it was exported.

    It is good for timing alone: what the exporter folded into a layer is not folded again. ``inputs``: a call, as the
    engine takes it. False, and nothing is written, where the graph holds a matrix that is no parameter of the module, or
    where it does not run with the sizes: then the module has to be exported.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    learned = {f"{_LEARNED}{name}": tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    # Where a normalization was folded into a layer, its bias has no name of the module's; it is as long as the weight's
    # axis of outputs.
    convolutions = [node for node in model.graph.node if node.op_type in _OUTPUTS and len(node.input) > 2]
    biased = {node.input[2]: (learned.get(node.input[1]), _OUTPUTS[node.op_type]) for node in convolutions}
    reshaped = {node.input[1]: node for node in model.graph.node if node.op_type == "Reshape"}
    del model.graph.value_info[:]
    for tensor in model.graph.initializer:
        value, (weight, axis) = learned.get(tensor.name), biased.get(tensor.name, (None, 0))
        if value is None and weight is not None:
            value = np.zeros(weight.shape[axis], weight.dtype)
        elif tensor.name in reshaped and list(numpy_helper.to_array(tensor)[:-1]) == [-1]:
            value = np.array([0, -1])  # each sample as one row, however long it is
            del reshaped[tensor.name].attribute[:]  # a 0 may say: as long as it was
        if value is not None:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
        elif len(tensor.dims) > 1 and np.prod(tensor.dims) > max(tensor.dims):
            return False
    try:
        onnxruntime_cpu.session(model.SerializeToString())(inputs)
    except Exception:  # ONNX Runtime's exceptions share no base class
        return False
    onnx.save(model, path)
    return True
