"""One of fourteen changes of an image at any strength: TrivialAugment (Müller & Hutter 2021), with its wide strengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec

if TYPE_CHECKING:
    from PIL.Image import Image

# What comes in from beyond an image's edge: gray, as of AutoAugment.
_GRAY = 128


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """In a share ``trivial`` of the views. ``x``: [batch, 1 or 3, h, w], bytes, or 0 to 1."""
    from PIL import Image

    draws = chance.drawn("trivial", 4)
    for row in np.flatnonzero(draws[:, 0] < augment.trivial):
        pixels = x[row] if x.dtype == np.uint8 else np.rint(np.clip(x[row], 0, 1) * 255).astype(np.uint8)
        picture = Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))
        strength, sign = draws[row, 2], 1 if draws[row, 3] < 0.5 else -1
        changed = np.asarray(_OPERATIONS[int(draws[row, 1] * len(_OPERATIONS))](picture, strength, sign))
        changed = changed[None] if changed.ndim == 2 else changed.transpose(2, 0, 1)
        x[row] = changed if x.dtype == np.uint8 else changed / np.float32(255)
    return x


def _same(picture: Image, strength: float, sign: int) -> Image:
    return picture


def _of_ops(name: str) -> Callable[[Image, float, int], Image]:
    def operation(picture: Image, strength: float, sign: int) -> Image:
        from PIL import ImageOps

        changed: Image = getattr(ImageOps, name)(picture)
        return changed

    return operation


def _enhanced(name: str) -> Callable[[Image, float, int], Image]:
    def operation(picture: Image, strength: float, sign: int) -> Image:
        from PIL import ImageEnhance

        changed: Image = getattr(ImageEnhance, name)(picture).enhance(1 + sign * 0.99 * strength)
        return changed

    return operation


def _posterized(picture: Image, strength: float, sign: int) -> Image:
    from PIL import ImageOps

    return ImageOps.posterize(picture, 8 - round(6 * strength))


def _solarized(picture: Image, strength: float, sign: int) -> Image:
    from PIL import ImageOps

    return ImageOps.solarize(picture, round(256 * (1 - strength)))


def _rotated(picture: Image, strength: float, sign: int) -> Image:
    from PIL import Image

    return picture.rotate(sign * 135 * strength, Image.Resampling.BILINEAR, fillcolor=_gray(picture))


def _moved(*matrix: float) -> Callable[[Image, float, int], Image]:
    """``matrix``: the six numbers of an affine map at the greatest strength, without the unit matrix."""

    def operation(picture: Image, strength: float, sign: int) -> Image:
        from PIL import Image

        unit = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        places = [one + sign * strength * most for one, most in zip(unit, matrix)]
        # About the upper left corner, as in the paper's code.
        return picture.transform(
            picture.size, Image.Transform.AFFINE, places, Image.Resampling.BILINEAR, fillcolor=_gray(picture)
        )

    return operation


def _gray(picture: Image) -> Any:
    return _GRAY if picture.mode == "L" else (_GRAY,) * 3


_OPERATIONS: tuple[Callable[[Image, float, int], Image], ...] = (
    _same,
    _of_ops("autocontrast"),
    _of_ops("equalize"),
    _rotated,
    _solarized,
    _posterized,
    *map(_enhanced, ("Color", "Contrast", "Brightness", "Sharpness")),
    _moved(0, 0.99, 0, 0, 0, 0),
    _moved(0, 0, 0, 0.99, 0, 0),
    _moved(0, 0, 32, 0, 0, 0),
    _moved(0, 0, 0, 0, 0, 32),
)
