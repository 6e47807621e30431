"""ONNX Runtime on an NVIDIA GPU, with inputs and outputs bound to its memory."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.backends import missing, onnxruntime_cpu
from mmedge.backends.backend import Backend, LayerTimes, Opening
from mmedge.backends.session import Session

if TYPE_CHECKING:
    from onnxruntime import IOBinding, OrtValue

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def session(graph: Path | bytes, *, threads: int = 1, providers: Sequence[Any] | None = None) -> Session:
    """Open an ONNX graph on the first GPU. ``providers``: as ``["TensorrtExecutionProvider", …]``, tried in order.

    Raises MissingDependency where ONNX Runtime has no CUDA provider, or falls back to the processor.
    """
    wanted = [*(providers or PROVIDERS[:1]), "CPUExecutionProvider"]
    return bound(onnxruntime_cpu.native_session(graph, threads=threads, providers=wanted), "cuda")


def bound(native: Any, device: str) -> Session:
    """An ``InferenceSession`` with inputs and outputs in the memory of ``device``; copies and compute are timed apart.

    A binding and its inputs' memory are kept and lent, one to a caller, so that threads do not share them.
    """
    import onnxruntime

    names = [output.name for output in native.get_outputs()]
    lent: queue.SimpleQueue[tuple[IOBinding, dict[str, OrtValue]]] = queue.SimpleQueue()
    last: dict[str, float] = {}

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        nonlocal last
        try:
            binding, held = lent.get_nowait()
        except queue.Empty:
            binding, held = native.io_binding(), {}
        began = time.perf_counter()
        for name, array in inputs.items():
            array = np.ascontiguousarray(array)
            if name in held and tuple(held[name].shape()) == array.shape:
                held[name].update_inplace(array)
            else:
                held[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)
                binding.bind_ortvalue_input(name, held[name])
        for name in names:  # again each time: another batch has outputs of another size
            binding.bind_output(name, device, 0)
        binding.synchronize_inputs()
        copied = time.perf_counter()
        native.run_with_iobinding(binding)
        binding.synchronize_outputs()
        computed = time.perf_counter()
        outputs = dict(zip(names, binding.copy_outputs_to_cpu()))
        ended = time.perf_counter()
        last = {
            "host_to_device": (copied - began) * 1000,
            "compute": (computed - copied) * 1000,
            "device_to_host": (ended - computed) * 1000,
        }
        lent.put((binding, held))
        return outputs

    return Session(run, onnxruntime_cpu.tensor_infos(native), native, lambda: last)


def _layer_times(graph: Path, inputs: Mapping[str, np.ndarray], threads: int, runs: int) -> LayerTimes:
    return onnxruntime_cpu.layer_times(graph, inputs, threads, runs, PROVIDERS)


def _open(file: Path | bytes, opening: Opening) -> Session:
    return session(file, threads=opening.threads, providers=opening.providers)


def _missing_to_run() -> list[missing.Missing]:
    get = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
    return [*missing.provider("CUDAExecutionProvider", get), *missing.gpu()]


BACKEND = Backend(
    name="onnxruntime-cuda",
    open=_open,
    layer_times=_layer_times,
    missing_to_run=_missing_to_run,
    lacks={"int8": "its GPU kernels compute in float; name fp16 for it, or the target tensorrt"},
    takes_providers=True,
    gpu=True,
)
