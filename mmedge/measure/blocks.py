"""How many channels a CPU's kernels take at once: widths between two multiples of it cost as much as the larger one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmedge.backends import onnxruntime_cpu
from mmedge.contract import Contract
from mmedge.graph.trace import example
from mmedge.leftovers import scratch
from mmedge.profiling.timing import spans

_BLOCKS = (4, 8, 16)
_LAYERS = 6  # in a row, so that a call takes long against the clock's own noise
_LARGEST_MAP = 28


def preferred_block(module: nn.Module, contract: Contract, *, threads: int) -> tuple[int, dict[str, float]]:
    """The smallest of 4, 8 and 16 whose removal from a width is felt, and the milliseconds by width that show it.

    The kind of layer that does most of ``module``'s multiplications is timed, six in a row, at a multiple of 16 channels
    and at 4, 8 and 16 fewer. A block counts where removing it brings half, or more, of its part of what removing 16
    brings, by multiplications: so what a call or a layer costs at any width does not count.
    """
    conv, width, size = _busiest(module, contract)
    full = max(32 if conv else 128, 16 * round(width / 16))
    widths = {block: full - block for block in _BLOCKS}
    with scratch() as folder:
        times = _timed(folder, conv, size, [full, *widths.values()], threads)
    table = {str(channels): ms for channels, ms in sorted(times.items())}
    saved = {block: times[full] - times[narrower] for block, narrower in widths.items()}
    fewer = {block: 1 - (narrower / full) ** 2 for block, narrower in widths.items()}
    largest = _BLOCKS[-1]
    felt = (block for block in _BLOCKS if saved[block] >= 0.5 * saved[largest] * fewer[block] / fewer[largest])
    return next(felt, largest), table


def _busiest(module: nn.Module, contract: Contract) -> tuple[int, int, int]:
    """(dimensions of its convolution, 0 where it is linear; its width; its map's side, or its rows) of the costliest layer."""
    found = [(0, 0, 32, 1)]

    def look(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        places = output.numel() // output.shape[0] // getattr(layer, "out_channels", output.shape[-1])
        conv = {nn.Conv1d: 1, nn.Conv2d: 2}.get(type(layer), 0)
        side = round(places ** (1 / conv)) if conv else places
        width = getattr(layer, "out_channels", output.shape[-1])
        found.append((places * layer.weight.numel(), conv, width, min(_LARGEST_MAP, max(1, side))))  # type: ignore[operator,union-attr,arg-type]

    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    hooks = [layer.register_forward_hook(look) for layer in module.modules() if isinstance(layer, kinds)]
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            module.eval()(**example(contract, batch=1))
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes.items():
            part.training = mode
    return max(found)[1:]


def _timed(folder: Path, conv: int, size: int, widths: list[int], threads: int) -> dict[int, float]:
    calls = {}
    for width in widths:
        path = folder / f"{width}.onnx"
        _write(path, conv, width)
        run = onnxruntime_cpu.session(path, threads=threads)
        x = np.ones((1, width, *(size,) * conv) if conv else (size, width), np.float32)
        calls[width] = lambda run=run, x=x: run({"x": x})
    return {width: float(np.median(times)) / 1e6 for width, times in spans(calls, runs=60, warmup=5).items()}


def _write(path: Path, conv: int, width: int) -> None:
    """Six layers of ``width`` channels with ReLU: 3-wide convolutions in ``conv`` dimensions, or matrices."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape = (width, width, *(3,) * conv)
    weights = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
    nodes, x = [], "x"
    for index in range(_LAYERS):
        if conv:
            nodes.append(helper.make_node("Conv", [x, "w"], [f"y{index}"], pads=[1] * (2 * conv)))
        else:
            nodes.append(helper.make_node("MatMul", [x, "w"], [f"y{index}"]))
        x = f"z{index}"
        nodes.append(helper.make_node("Relu", [f"y{index}"], [x]))
    dims = [1, width, *(f"s{axis}" for axis in range(conv))] if conv else ["rows", width]
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, dims)],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
