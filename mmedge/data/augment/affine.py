"""An image turned, sheared and zoomed about its middle, its edge repeated."""

from __future__ import annotations

import numpy as np

from mmedge.data.augment.chance import Chance
from mmedge.data.store.forms import as_pixels, restored
from mmedge.recipe import Augment
from mmedge.spec import ModalitySpec


def change(x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """By at most ``rotate`` and ``shear`` degrees and the part ``zoom``, all at once. ``x``: [batch, c, h, w], uint8 stays uint8."""
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    turn, shear, zoom = (2 * chance.drawn("affine", 3) - 1).T
    turn, shear = np.deg2rad(augment.rotate * turn), np.tan(np.deg2rad(augment.shear * shear))
    scale = 1 / (1 + augment.zoom * zoom)
    aspect = x.shape[-1] / x.shape[-2]
    # From places of the new image to those of the old one, in units of half a side; the aspect keeps circles round.
    cos, sin, zero = scale * np.cos(turn), scale * np.sin(turn), np.zeros(len(x))
    rows = [
        np.stack([cos, (cos * shear - sin) / aspect, zero], 1),
        np.stack([sin * aspect, sin * shear + cos, zero], 1),
    ]
    moves = torch.from_numpy(np.stack(rows, axis=1).astype(np.float32))
    out = np.empty(x.shape, x.dtype)
    for row in range(len(x)):  # one fits the processor's cache
        image = torch.from_numpy(restored(spec, x[row])[None])
        grid = affine_grid(moves[row : row + 1], list(image.shape), align_corners=False)
        turned = grid_sample(image, grid, padding_mode="border", align_corners=False)[0].numpy()
        out[row] = as_pixels(turned, x.dtype)
    return out
