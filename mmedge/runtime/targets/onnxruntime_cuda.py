"""ONNX Runtime on an NVIDIA GPU, with inputs and outputs bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MissingDependency
from mmedge.runtime.targets import onnxruntime_cpu
from mmedge.runtime.targets.session import Session


def session(graph: Path, *, threads: int = 1, providers: Sequence[Any] | None = None) -> Session:
    """Open an ONNX graph on the first GPU. ``providers``: as ``["TensorrtExecutionProvider", …]``, tried in order.

    Raises MissingDependency where ONNX Runtime has no CUDA provider, or falls back to the processor.
    """
    import onnxruntime

    wanted = list(providers or ["CUDAExecutionProvider"])
    first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    todo = "pip uninstall onnxruntime && pip install onnxruntime-gpu, on a machine with an NVIDIA driver"
    if first not in onnxruntime.get_available_providers():
        raise MissingDependency(f"this ONNX Runtime has no {first}", todo=todo)
    native = onnxruntime_cpu.native_session(graph, threads=threads, providers=[*wanted, "CPUExecutionProvider"])
    if first not in native.get_providers():
        raise MissingDependency(f"{first} does not start on this machine", where=str(graph), todo=todo)
    names = [output.name for output in native.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        binding = native.io_binding()  # one a call, so that threads do not share it
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            binding.bind_output(name)
        native.run_with_iobinding(binding)
        return dict(zip(names, binding.copy_outputs_to_cpu()))

    return Session(run, onnxruntime_cpu.tensor_infos(native), native)
