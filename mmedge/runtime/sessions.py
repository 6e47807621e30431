"""Opening a model file on a target: the one table of what can be run, and what an opened model says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MissingDependency, MmedgeError

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class TensorInfo:
    """An input: its dtype, and its shape with None where an axis is dynamic."""

    dtype: np.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Session:
    """A model ready to run. ``run({input: array}) -> {output: array}``; ``native``: the target's own object behind it."""

    run: Run
    inputs: Mapping[str, TensorInfo]
    native: Any


def opened(file: Path, target: str = "onnxruntime-cpu", *, threads: int = 1) -> Session:
    """Open ``file`` on ``target``. Raises MissingDependency where the target cannot run here, MmedgeError for a bad file."""
    match target:
        case "onnxruntime-cpu":
            return _onnxruntime(file, threads)
    raise MissingDependency(f"this version of mmedge cannot run {target}", todo="name another --target")


def _onnxruntime(file: Path, threads: int) -> Session:
    from mmedge.runtime.targets import onnxruntime_cpu

    if not file.is_file():
        raise MmedgeError("the model does not exist", where=str(file))
    native = onnxruntime_cpu.native_session(file, threads=threads)
    names = [output.name for output in native.get_outputs()]
    inputs = {
        taken.name: TensorInfo(
            _DTYPES[taken.type], tuple(size if isinstance(size, int) and size > 0 else None for size in taken.shape)
        )
        for taken in native.get_inputs()
    }
    return Session(lambda feed: dict(zip(names, native.run(None, feed))), inputs, native)


_DTYPES: dict[str, np.dtype] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(bool),
}
