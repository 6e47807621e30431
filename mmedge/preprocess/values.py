"""What the kinds share in reading a raw value: where it stands, whether it is there, and its shape."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmedge.errors import MmedgeError


def where(value: Any) -> str | None:
    """The place that an error names: the path, where the value is one."""
    if isinstance(value, tuple) and value:
        value = value[0]
    return str(value) if isinstance(value, (str, Path)) else None


def existing(value: str | Path, name: str) -> str | Path:
    """``value``, the path of a file that is there; raises MmedgeError."""
    if not os.path.isfile(value):  # Path's own raises for names too long and folders that are closed
        raise MmedgeError(
            f"the {name} file does not exist", where=str(value), todo="correct the path, or leave the modality out"
        )
    return value


def opened(value: str | Path | bytes | bytearray, name: str) -> BinaryIO:
    """A file's bytes to read from: of a path that is there, or as they are; raises MmedgeError."""
    if isinstance(value, (bytes, bytearray)):
        return io.BytesIO(value)
    try:
        return open(existing(value, name), "rb")
    except OSError as error:
        raise MmedgeError(f"the {name} cannot be opened: {error.strerror}", where=str(value)) from error


def load_npy(value: str | Path | bytes, name: str) -> np.ndarray:
    """An array of a .npy file, or of its bytes, which is never unpickled; raises MmedgeError."""
    try:
        held = io.BytesIO(value) if isinstance(value, bytes) else existing(value, name)
        loaded = np.load(held, allow_pickle=False)
    except MemoryError as error:
        raise MmedgeError(f"the {name} is larger than memory, or its header is damaged", where=where(value)) from error
    except (ValueError, OSError, EOFError) as error:
        # NumPy takes whatever it does not know for a pickle, and advises to load it unsafely.
        why = "it is no .npy file of numbers" if "pickle" in str(error) else error
        raise MmedgeError(f"the {name} is not an array that can be read: {why}", where=where(value)) from error
    if not isinstance(loaded, np.ndarray):
        raise MmedgeError(f"the {name} holds several arrays, it must be one (.npy)", where=where(value))
    return loaded


def numbers(value: Any, name: str, dtype: type[np.floating[Any]] = np.float32) -> np.ndarray:
    """An array of a value, of float32 or another ``dtype``; raises MmedgeError where it is not of numbers."""
    refuse_masked(value, name)
    if isinstance(value, np.ndarray) and value.dtype.kind not in "fiub":
        raise MmedgeError(f"{name} must be numbers, not {value.dtype}")
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is told as such
            return np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise MmedgeError(f"{name} must be numbers: {error}") from error


def refuse_masked(value: Any, name: str) -> None:
    """Raise MmedgeError for a masked array: what its mask hides would be taken for values."""
    if isinstance(value, np.ma.MaskedArray) and value.mask.any():
        raise MmedgeError(
            f"{name} is a masked array, {int(value.mask.sum())} of whose values are hidden",
            todo="fill them (.filled(…)), or leave the modality out",
        )


def divisors(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """What values are divided by: their deviation, and 1 where they are constant but for rounding, which keeps them at 0.

    In any unit: fields of 1e-13 tesla differ as much as numbers about 1 do.
    """
    constant = (std <= 1e-6 * np.minimum(1.0, np.abs(mean))) | (std < 1e-30)
    return np.where(constant, 1.0, std)


def shaped(values: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """``values`` where they have the shape; raises MmedgeError."""
    if values.shape != shape:
        raise MmedgeError(f"{name} has shape {list(values.shape)}, the model takes {list(shape)}")
    return values


def window(length: int, wanted: int, take: str) -> slice:
    """The part of ``length`` steps that is kept where only ``wanted`` fit."""
    start = {"start": 0, "center": max(0, length - wanted) // 2, "end": max(0, length - wanted)}[take]
    return slice(start, start + min(length, wanted))
