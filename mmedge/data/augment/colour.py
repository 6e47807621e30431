"""Brightness, contrast, saturation and hue of an image, or no colours at all.

Each is a linear map of a pixel's red, green and blue, so that all of them are one: the order is torchvision's ColorJitter's
unless it is shuffled, but for values that go out of range on the way, which are cut off at the end, and rounding, which is
done once.
"""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec

_LUMA = np.array([0.299, 0.587, 0.114])
# To luma and two axes of colour (YIQ), in whose plane a hue is an angle.
_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
# The mean that contrast is measured from is that of every fourth pixel of every fourth row.
_EACH = 4


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """By at most the parts that ``augment`` names. ``x``: [batch, 1 or 3, h, w], bytes, or 0 to 1."""
    draws = chance.drawn("colour", 5)
    bright, contrast, saturation = (
        1 + part * (2 * draw - 1)
        for part, draw in zip((augment.brightness, augment.contrast, augment.saturation), draws.T)
    )
    turn = 2 * np.pi * augment.hue * (2 * draws[:, 3] - 1)
    gray = draws[:, 4] < augment.grayscale
    for row, image in enumerate(x):
        luma = _LUMA if len(image) == 3 else np.ones(1)
        mean = luma @ image[:, ::_EACH, ::_EACH].mean(axis=(1, 2), dtype=np.float64)
        matrix = bright[row] * contrast[row] * np.eye(len(image))
        if len(image) == 3:
            saturated = saturation[row] * np.eye(3) + (1 - saturation[row]) * np.outer(np.ones(3), _LUMA)
            matrix = _turned(turn[row]) @ saturated @ matrix if augment.hue else saturated @ matrix
            matrix = np.outer(np.ones(3), _LUMA @ matrix) if gray[row] else matrix
        _mapped(image, matrix.astype(np.float32), np.float32((1 - contrast[row]) * bright[row] * mean), x[row])
    return x


def _turned(angle: float) -> np.ndarray:
    """float64 [3, 3]: red, green and blue with their hue turned by an angle in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.linalg.inv(_YIQ) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _YIQ


def _mapped(image: np.ndarray, matrix: np.ndarray, offset: np.float32, out: np.ndarray) -> None:
    """``matrix`` times the channels of ``image`` [c, h, w], plus ``offset``, cut to what a pixel can be, into ``out``.

    Number by number, not by a library's product of matrices, whose last bit depends on how many threads it has.
    ``out`` may be ``image``.
    """
    most, half = (255, np.float32(0.5)) if out.dtype == np.uint8 else (1, np.float32(0))
    source = np.array(image, np.float32)
    found, part = np.empty_like(source[0]), np.empty_like(source[0])
    for channel, weights in zip(out, matrix):
        np.multiply(source[0], weights[0], out=found)
        for other, weight in zip(source[1:], weights[1:]):
            if weight:
                found += np.multiply(other, weight, out=part)
        found += offset + half
        channel[...] = np.clip(found, 0, most + half, out=found)
