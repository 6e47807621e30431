"""A Q/DQ graph as a torch module that trains: weights, biases and scales of the very file that ships.

What is trained is the exported graph itself, node by node, with its Q/DQ where the quantizer put them: a network of any
make, and no second placement that could differ from the one that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.errors import MmedgeError
from mmedge.graph.operators import OPERATORS, Attributes, untrainable
from mmedge.graph.precision import MIDDLE
from mmedge.graph.sparsity import has_pattern

# Inputs of a node that hold learned values, beside quantized weights; other constants (an epsilon, a bound) stay.
_LEARNED = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "Add": (0, 1),
    "LayerNormalization": (1, 2),
    "BatchNormalization": (1, 2),
    "Where": (1, 2),
}
# A step of the optimizer changes a scale by this many learning rates, relative to itself: a range that calibration got wrong
# by a power of two is then mended within one epoch, and one that is right moves by a few per cent.
_GAIN = 10.0


def fake_quantize(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """``x`` as codes of ``low`` to ``high`` give it back, with a gradient for ``x`` and for ``scale``, which broadcasts.

    Learned step size quantization (LSQ, Esser et al. 2020): rounding passes the gradient on, clipping ends it.
    """
    codes = torch.clamp(x / scale, low, high)
    return (codes + (codes.round() - codes).detach()) * scale


class TrainableGraph(nn.Module):
    """``forward(present, **inputs) -> {output: tensor}`` of an ONNX graph with Q/DQ pairs, simulated in float32.

    Raises MmedgeError where the graph holds an operator that cannot be trained here, by its name; ``forward`` too,
    where an operator is used in a way that cannot.
    """

    def __init__(self, graph: Path) -> None:
        super().__init__()
        import onnx
        from onnx import numpy_helper

        self._model = onnx.load(graph)
        nodes = self._model.graph.node
        known = {*OPERATORS, "QuantizeLinear", "DequantizeLinear"}
        foreign = sorted({node.op_type for node in nodes if node.op_type not in known or node.domain not in ("", "ai.onnx")})  # fmt: skip
        if foreign:
            raise untrainable(", ".join(foreign), where=str(graph))
        self._stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in self._model.graph.initializer}
        self._nodes = [(node, _attributes(node)) for node in nodes]
        # torch takes no dots in the names of parameters: they are numbered, in the graph's order.
        self._numbers: dict[str, str] = {}
        self.learned = nn.ParameterDict()
        self._there: dict[str, str] = {}  # weights of 2:4 sparsity -> which of them there are
        self._codes: dict[str, tuple[str, int, int, int]] = {}  # quantized value -> (its scale, low, high, axis)
        for node, attributes in self._nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                self._quantizer(node, attributes)
            elif node.op_type == "Constant":
                self._keep(self._number(node.output[0]), OPERATORS["Constant"]([], attributes))
            else:
                for place in _LEARNED.get(node.op_type, ()):
                    if place < len(node.input) and self._is_learned(node.input[place]):
                        self._learn(node.input[place], self._stored[node.input[place]])
        for name, value in self._stored.items():
            if name not in self._numbers and name not in self._codes:
                self._keep(self._number(name), torch.from_numpy(np.array(value)))
        self._outputs = [output.name for output in self._model.graph.output]

    def forward(self, present: Tensor | None = None, **inputs: Tensor) -> dict[str, Tensor]:
        values: dict[str, Tensor | None] = {**inputs, "": None} | ({} if present is None else {"present": present})
        for node, attributes in self._nodes:
            if node.op_type == "QuantizeLinear":
                values[node.output[0]] = self._quantized(self._value(node.input[0], values), node.output[0])
            elif node.op_type == "DequantizeLinear":
                name = node.input[0]
                stored = self._quantized(self._value(name, values), name) if name in self._stored else None
                values[node.output[0]] = values[name] if stored is None else stored
            elif node.op_type != "Constant":
                taken = [self._value(name, values) for name in node.input]
                result = OPERATORS[node.op_type](taken, attributes)
                results = result if isinstance(result, tuple) else (result,)
                values.update(zip(node.output, results))
        return {name: self._value(name, values) for name in self._outputs}

    def write(self, path: Path) -> None:
        """Write the graph with the trained values in it: the same nodes, weights as the codes they round to."""
        import onnx
        from onnx import numpy_helper

        trained: dict[str, np.ndarray] = {}
        for name, number in self._numbers.items():
            if number not in self.learned:
                continue
            value = self._value(name, {}).detach().cpu()
            if name in self._codes:
                scale, low, high, axis = self._codes[name]
                step = _along(self._scale(scale).detach().cpu(), value.dim(), axis)
                trained[name] = torch.clamp(value / step, low, high).round().numpy().astype(self._stored[name].dtype)
            elif any(scale == name for scale, *_ in self._codes.values()):
                trained[name] = self._scale(name).detach().cpu().numpy()
            else:
                trained[name] = value.numpy()
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            if tensor.name in trained:
                value = trained[tensor.name].reshape(self._stored[tensor.name].shape)
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        onnx.checker.check_model(model)
        onnx.save(model, path)

    def _quantizer(self, node: Any, attributes: Attributes) -> None:
        """Note the codes of a Q or DQ node; its scale becomes a parameter, and its weight too where it is stored."""
        value, scale = node.input[0], node.input[1]
        zero = self._stored[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(1, np.uint8)
        middle = zero.dtype == np.uint8 and value not in self._stored and bool((zero == MIDDLE).all())
        if scale not in self._stored or zero.dtype not in (np.int8, np.uint8) or (zero.any() and not middle):
            raise MmedgeError(
                "only Q/DQ of 8 bits with stored scales and zero point 0, or 128 in uint8, can be trained",
                where=f"node {node.name!r}",
            )
        if (self._stored[scale] <= 0).any():
            raise MmedgeError("a scale is not above 0", where=f"node {node.name!r}")
        axis = attributes.get("axis", 1)
        low, high = (-127, 127) if zero.dtype == np.int8 else (-MIDDLE, 255 - MIDDLE) if middle else (0, 255)
        if scale not in self._numbers:
            self._learn(scale, np.zeros_like(self._stored[scale]))
            self._keep(f"scale_{self._numbers[scale]}", torch.from_numpy(np.array(self._stored[scale])))
        if node.op_type == "QuantizeLinear":
            self._codes[node.output[0]] = (scale, low, high, axis)
            if value in self._stored:
                self._learn(value, self._stored[value])
                self._hold(value, axis)
        elif value in self._stored:
            codes = self._stored[value].astype(np.float32)
            if zero.dtype == np.int8 and np.abs(codes).max(initial=0) <= 64:
                # The quantizer keeps this weight to 7 bits, for CPUs whose sums of 16 bits overflow.
                low, high = -64, 64
            self._codes[value] = (scale, low, high, axis)
            steps = _along(torch.from_numpy(np.array(self._stored[scale])), codes.ndim, axis).numpy()
            self._learn(value, codes * steps)
            self._hold(value, axis)
        elif self._codes.get(value, (scale,))[0] != scale and not np.array_equal(
            self._stored[self._codes[value][0]], self._stored[scale]
        ):
            raise MmedgeError("a tensor is dequantized by another scale than it was quantized by", where=node.name)

    def _quantized(self, value: Tensor, name: str) -> Tensor:
        scale, low, high, axis = self._codes[name]
        return fake_quantize(value, _along(self._scale(scale), value.dim(), axis), low, high)

    def _scale(self, name: str) -> Tensor:
        """A scale, learned as the logarithm of its change: it stays above 0, starts exact, and steps are relative."""
        number = self._numbers[name]
        start: Tensor = getattr(self, f"scale_{number}")
        return start * (_GAIN * self.learned[number]).exp()

    def _value(self, name: str, values: Mapping[str, Tensor | None]) -> Any:
        if name in values:
            return values[name]
        number = self._numbers[name]
        if number not in self.learned:
            return getattr(self, number)
        learned = self.learned[number]
        return learned * getattr(self, self._there[name]) if name in self._there else learned

    def _is_learned(self, name: str) -> bool:
        """Whether a constant is one that learns: floats of more than one value. A scalar is a formula's own."""
        stored = self._stored.get(name)
        return stored is not None and name not in self._numbers and stored.dtype == np.float32 and stored.size > 1

    def _hold(self, name: str, axis: int) -> None:
        """Keep the zeros of weights with a 2:4 pattern; ``axis``: of their outputs."""
        value = self._stored[name]
        if name not in self._there and has_pattern(value, 1 if axis % max(value.ndim, 1) == 0 else 0):
            self._there[name] = f"there_{len(self._there)}"
            self._keep(self._there[name], torch.from_numpy(value != 0))

    def _keep(self, name: str, value: Tensor) -> None:
        """A constant, which follows the module to its device once, and not at every forward pass."""
        self.register_buffer(name, value, persistent=False)

    def _number(self, name: str) -> str:
        return self._numbers.setdefault(name, f"v{len(self._numbers)}")

    def _learn(self, name: str, value: np.ndarray) -> None:
        if name not in self._numbers:
            self.learned[self._number(name)] = nn.Parameter(torch.from_numpy(np.array(value, np.float32)))


def _along(scale: Tensor, rank: int, axis: int) -> Tensor:
    """A scale a channel, [channels], shaped to broadcast along ``axis``; one scale for all as it is."""
    return scale.reshape([-1 if at == axis % rank else 1 for at in range(rank)]) if scale.numel() > 1 else scale


def _attributes(node: Any) -> Attributes:
    import onnx
    from onnx import numpy_helper

    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {
        name: torch.from_numpy(np.array(numpy_helper.to_array(value))) if isinstance(value, onnx.TensorProto) else value
        for name, value in values.items()
    }
