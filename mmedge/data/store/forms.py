"""The smallest form on disk that gives every number of a modality back bit for bit."""

from __future__ import annotations

import math

import numpy as np

from mmedge.spec import ArraySpec, AudioSpec, ModalitySpec, TextSpec

# What whole numbers are divided by: pixels to 0 to 1, samples of 16 bits to -1 to 1.
_DIVISORS = {"uint8": np.float32(255), "int16": np.float32(32768)}


def forms(spec: ModalitySpec) -> tuple[str, ...]:
    """The numpy dtypes that a modality may be kept in, smallest first; the last one holds whatever it is.

    Pixels are uint8; samples of a sound int16 where the files are of 16 bits and nothing was resampled; numbers
    float16 where they came as such; ids the smallest whole number that holds them all.
    """
    if spec.pixels:
        return ("uint8",)
    if spec.dtype == "int64":
        assert isinstance(spec, (TextSpec, ArraySpec))
        most = spec.tokens or (spec.vocabulary if isinstance(spec, TextSpec) else 1 << 31)
        fitting = next((kind for kind, end in (("uint8", 1 << 8), ("uint16", 1 << 16)) if most <= end), "int32")
        return (fitting, "int64")
    if isinstance(spec, AudioSpec) and spec.features == "waveform" and not spec.standardize:
        return ("int16", "float32")
    return ("float16", "float32")


def packed(spec: ModalitySpec, form: str, features: np.ndarray) -> np.ndarray | None:
    """``preprocess.raw_features`` of one sample in ``form``; None where that would lose something."""
    if form == spec.dtype:
        return features
    divisor = _divisor(spec, form)
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is seen below
        small = (np.rint(features * divisor) if divisor else features).astype(form)
    bits = f"u{features.dtype.itemsize}"
    same = np.array_equal(restored(spec, small).view(bits), np.ascontiguousarray(features).view(bits))
    return small if same else None


def restored(spec: ModalitySpec, kept: np.ndarray) -> np.ndarray:
    """``preprocess.raw_features`` of one sample or a batch, of what ``packed`` gave for it. A new array."""
    divisor = _divisor(spec, kept.dtype.name)
    return np.divide(kept, divisor, dtype=np.float32) if divisor else kept.astype(spec.dtype)


def as_pixels(features: np.ndarray, form: np.dtype) -> np.ndarray:
    """An image of 0 to 1 in the dtype ``form``: as bytes where it came so, to the nearest."""
    return np.rint(features * _DIVISORS["uint8"]).astype(form) if form == np.uint8 else features


def bytes_of(spec: ModalitySpec) -> int:
    """Bytes that a sample takes on the disk: certain for images and ids, and for the others at most."""
    found = forms(spec)
    form = found[0] if spec.dtype == "int64" else found[-1]
    return math.prod(spec.shape) * np.dtype(form).itemsize


def _divisor(spec: ModalitySpec, form: str) -> np.float32 | None:
    return _DIVISORS.get(form) if spec.dtype == "float32" else None
