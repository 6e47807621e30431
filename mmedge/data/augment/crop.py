"""A random part of an image, scaled to the whole: RandomResizedCrop (Szegedy et al. 2015) as torchvision has it."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec

_ASPECT = (3 / 4, 4 / 3)


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """Of at least ``crop`` of the area, and an aspect of 3:4 to 4:3. ``x``: [batch, c, h, w], uint8 stays uint8."""
    import torch
    from torch.nn.functional import interpolate

    out = np.empty(x.shape, x.dtype)
    for row, (top, left, height, width) in enumerate(_boxes(chance.drawn("crop", 4), augment.crop, x.shape[-2:])):
        part = torch.from_numpy(x[row : row + 1, :, top : top + height, left : left + width])
        part = part.contiguous(memory_format=torch.channels_last)  # three times as fast
        out[row] = interpolate(part, x.shape[-2:], mode="bilinear", antialias=True)[0].numpy()
    return out


def _boxes(draws: np.ndarray, least: float, size: tuple[int, ...]) -> list[list[int]]:
    """[top, left, height, width] in pixels of each row. ``draws``: float64 [batch, 4] in [0, 1)."""
    area = (least + (1 - least) * draws[:, 0]) * size[0] * size[1]
    aspect = _ASPECT[0] * (_ASPECT[1] / _ASPECT[0]) ** draws[:, 1]
    sides = [np.sqrt(area / aspect), np.sqrt(area * aspect)]
    sides = [np.clip(np.rint(side), 1, most).astype(int) for side, most in zip(sides, size)]
    places = [np.floor(draw * (most - side + 1)).astype(int) for draw, side, most in zip(draws.T[2:], sides, size)]
    return np.stack([*places, *sides], axis=1).tolist()  # type: ignore[no-any-return]
