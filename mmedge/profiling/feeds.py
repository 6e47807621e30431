"""What models are timed with: tensors for a graph, raw values for a bundle."""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmedge.backends.session import TensorInfo
from mmedge.contract import Contract
from mmedge.errors import UsageError, did_you_mean
from mmedge.spec import ArraySpec, AudioSpec, ImageSpec, ModalitySpec, PointsSpec, TabularSpec, VideoSpec

# An input of more bytes than this is a slip of the pen.
_MOST_BYTES = 4 << 30


def parsed_shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``INPUT=N,N`` of the command line -> {input: shape}."""
    shapes = {}
    for item in given:
        name, _, sizes = item.partition("=")
        if not name or not all(size.isdigit() and int(size) for size in sizes.split(",")):
            raise UsageError(f"--shape wants INPUT=N,N with sizes of at least 1, not {item!r}")
        shapes[name] = tuple(map(int, sizes.split(",")))
    return shapes


def tensors(
    taken: Mapping[str, TensorInfo], batch: int, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, np.ndarray]:
    """Inputs to time a graph with: normal noise for floats, True for booleans, zeros for integers.

    ``shapes``: {input: shape without the batch axis} where axes other than the first are dynamic.
    """
    random, feed = np.random.default_rng(0), {}
    for name, shape in sizes(taken, batch, shapes).items():
        dtype = taken[name].dtype
        match dtype.kind:
            case "f":
                feed[name] = random.standard_normal(shape).astype(dtype)
            case "b":
                feed[name] = np.ones(shape, bool)
            case _:
                feed[name] = np.zeros(shape, dtype)
    return feed


def sizes(
    taken: Mapping[str, TensorInfo], batch: int, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, tuple[int, ...]]:
    """The whole shapes of ``tensors``. Raises UsageError for those that are not the model's, or too large."""
    unknown = sorted((shapes or {}).keys() - taken.keys())
    if unknown:
        raise UsageError(
            f"the model has no input {unknown[0]!r}{did_you_mean(unknown[0], taken)}; it has {', '.join(taken)}"
        )
    open_ = {name: info.shape for name, info in taken.items() if None in info.shape[1:] and name not in (shapes or {})}
    if open_:
        wanted = (f"--shape {name}={','.join(str(size or 128) for size in shape[1:])}" for name, shape in open_.items())
        raise UsageError(
            f"{'the input' if len(open_) == 1 else 'inputs'} {', '.join(open_)} of dynamic axes: {', '.join(str(list(shape)) for shape in open_.values())}",
            todo=f"give the shape without the batch: {' '.join(wanted)}",
        )
    return {name: _shape(name, info, batch, (shapes or {}).get(name)) for name, info in taken.items()}


def _shape(name: str, info: TensorInfo, batch: int, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """An input's whole shape: what is fixed stays, the first axis is the batch, the others are as given."""
    if given and not info.shape:  # the graph declares none, or a single number, in which case it will not run
        info = TensorInfo(info.dtype, (None,) * (len(given) + 1))
    wanted = info.shape[1:]
    rest = wanted if given is None else given
    if len(rest) != len(wanted) or any(size is not None and size != ours for size, ours in zip(wanted, rest)):
        raise UsageError(
            f"the input {name} is {list(info.shape)}, and --shape gives {list(rest)} behind the batch",
            todo="give only what is dynamic (None) another size",
        )
    shape: tuple[int, ...] = () if not info.shape else (info.shape[0] or batch, *(size for size in rest if size))
    count = 1
    for size in shape:
        count *= size
    if count * info.dtype.itemsize > _MOST_BYTES:
        raise UsageError(
            f"the input {name} of shape {list(shape)} would take {count * info.dtype.itemsize / 1e9:.1f} GB",
            todo="lower the batch size, or its --shape",
        )
    return shape


def raw_values(contract: Contract, batch: int) -> dict[str, list[Any]]:
    """Raw samples as an app would give them: PNG and WAV bytes of the model's own size and length, numbers, arrays."""
    random = np.random.default_rng(0)
    return {name: [_raw(spec, random) for _ in range(batch)] for name, spec in contract.modalities.items()}


def _raw(spec: ModalitySpec, random: np.random.Generator) -> Any:
    buffer = io.BytesIO()
    if isinstance(spec, ImageSpec):
        from PIL import Image

        pixels = random.integers(0, 256, (spec.height, spec.width, 3), np.uint8)
        Image.fromarray(pixels[:, :, 0] if spec.channels == 1 else pixels).save(buffer, "PNG")
        return buffer.getvalue()
    if isinstance(spec, AudioSpec):
        with wave.open(buffer, "wb") as sound:
            sound.setnchannels(1 + (spec.channel or 0))
            sound.setsampwidth(2)
            sound.setframerate(spec.sample_rate)
            samples = random.normal(0, 3000, spec.samples * (1 + (spec.channel or 0)))
            sound.writeframes(samples.astype("<i2").tobytes())
        return buffer.getvalue()
    if isinstance(spec, TabularSpec):
        words = {name: (spec.categories or {}).get(name, ("a word",))[0] for name in spec.categorical}
        return {**dict(zip(spec.columns, random.normal(size=len(spec.columns)).tolist())), **words}
    if spec.kind == "text":
        return " ".join(["word"] * spec.shape[0])
    if isinstance(spec, ArraySpec) and spec.ids is not None:
        return random.integers(0, spec.ids, spec.shape)
    if isinstance(spec, PointsSpec):
        return random.standard_normal((spec.points, spec.channels)).astype(np.float32)
    if isinstance(spec, VideoSpec):
        return random.integers(0, 256, (spec.frames, spec.height, spec.width, spec.channels), np.uint8)
    return random.standard_normal(spec.shape).astype(np.float32)
