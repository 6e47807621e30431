"""A graph's outputs for calls of a user's own, held against labels or against those of FP32."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mmedge.errors import UsageError

Judge = Literal["accuracy", "agreement", "difference"]
CallOutputs = Mapping[str, np.ndarray]


def check_arrays(outputs: Sequence[Mapping[str, Any]], model: str) -> None:
    """Raise UsageError where an output is no array: a sequence, or scikit-learn's sequence of maps."""
    for name, value in outputs[0].items():
        if not isinstance(value, np.ndarray):
            maps = isinstance(value, list) and value and isinstance(value[0], dict)
            raise UsageError(
                f"the output {name!r} is a sequence{' of maps' if maps else ''}, not an array",
                where=model,
                todo="convert with zipmap=False"
                if maps
                else "export the model without it, or with its tensors as outputs",
            )


def judge_of(outputs: Sequence[CallOutputs], output: str, *, labels: bool) -> Judge:
    """What can be judged by: labels where there are some, else agreement for one row of scores, else difference."""
    if labels:
        return "accuracy"
    first = outputs[0][output]
    scores = first.dtype.kind == "f" and first.ndim == 2 and first.shape[0] == 1 and first.shape[1] > 1
    return "agreement" if scores else "difference"


def check_labels(labels: np.ndarray | None, outputs: Sequence[CallOutputs], output: str, source: str) -> None:
    """Raise UsageError where there are no labels, or the output has not one score a class for each call."""
    if labels is None:
        raise UsageError(
            "accuracy was asked for and the data has no labels",
            where=source,
            todo="give --labels, or judge by agreement",
        )
    shape = outputs[0][output].shape
    if not _one_row(shape) or any(call[output].shape != shape for call in outputs):
        rows = f"{int(np.prod(shape[:-1]))} rows of {shape[-1]} classes a call" if shape else "no axis"
        found = f"has {rows}" if shape and shape[-1] > 1 else f"has no score a class: its shape is {list(shape)}"
        raise UsageError(
            f"the output {output!r} {found}, and there is one class number a call",
            todo="name another with --output, or judge by agreement without labels",
        )
    size = int(np.prod(shape))
    if labels.max() >= size:
        raise UsageError(f"a label is {labels.max()}, and the output {output!r} has {size} classes", where=source)


def _one_row(shape: tuple[int, ...]) -> bool:
    """Whether a shape is that of one score a class: classes are the last axis, or the channels of a map of one place."""
    wide = [axis for axis, size in enumerate(shape) if size != 1]
    return wide == [len(shape) - 1] or (wide == [1] and len(shape) > 3)


def scores(
    kind: Judge, outputs: Sequence[CallOutputs], expected: Sequence[CallOutputs], output: str, labels: np.ndarray | None
) -> np.ndarray:
    """float [calls] of which more is better: 1 is right, or the same as ``expected``."""
    if kind == "accuracy":
        assert labels is not None
        best = np.array([int(call[output].argmax()) for call in outputs])
        return (best == labels).astype(np.float64)
    pairs = list(zip(outputs, expected))
    if kind == "agreement":
        return np.array([_same_places(a[output], e[output]) for a, e in pairs])
    return np.array([1 - max(relative(a[key], e[key]) for key in e) for a, e in pairs])


def _same_places(actual: np.ndarray, expected: np.ndarray) -> float:
    """The share of rows whose largest value is at the same place."""
    if actual.shape != expected.shape or not expected.ndim:
        return 1 - relative(actual, expected)
    return float((actual.argmax(axis=-1) == expected.argmax(axis=-1)).mean()) if expected.size else 1.0


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """How far an output is from what was expected, 0 to 1.

    Of floats the norm of the difference over the norm of what was expected, both where both are finite; where either is
    not they must be the same, and the share that is not counts if it is more. Of all else the share that differs.
    """
    if actual.shape != expected.shape:
        return 1.0
    if not expected.size:
        return 0.0
    if expected.dtype.kind != "f":
        return float((actual != expected).mean())
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected) & np.isfinite(actual)
    unlike = ~finite & ~((actual == expected) | (np.isnan(actual) & np.isnan(expected)))
    norm = float(np.linalg.norm(expected[finite])) or 1.0
    difference = float(np.linalg.norm(actual[finite] - expected[finite])) / norm
    return max(min(difference, 1.0), float(unlike.mean()))


def column(outputs: Sequence[CallOutputs]) -> np.ndarray:
    """float32 [values, 1] of all the outputs, which may be of any shape, to measure a distance on.

    Floats as they are, where there are any; else what stands for each value on a circle, so that any two values that
    differ are as far apart as any others.
    """
    floats = [value.reshape(-1) for call in outputs for value in call.values() if value.dtype.kind == "f"]
    if floats:
        return np.concatenate(floats)[:, None].astype(np.float32)
    codes = [_circle(value.reshape(-1)) for call in outputs for value in call.values()]
    return np.concatenate(codes)[:, None].astype(np.float32)


def _circle(values: np.ndarray) -> np.ndarray:
    angles = np.array([zlib.crc32(str(value).encode()) for value in values]) * (2 * np.pi / 2**32)
    return np.concatenate([np.cos(angles), np.sin(angles)])
