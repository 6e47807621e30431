"""Pictures of more than 8 bits a pixel, whose values are read at the scale of 16: whether these fill it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmedge.errors import Fault
from mmedge.preprocess.image import DEEP, FORMATS, MAX_PIXELS

_LOOKED_AT = 100
_WHOLE = 65_535
# Below a quarter of the scale two bits of the eight are never used.
_LEAST = 1 << 14


def depth_faults(name: str, files: list[tuple[int, Path]], file: str, column: str) -> list[Fault]:
    """A warning where no picture of a hundred comes near 65,535, as of a camera of 12 bits, or one goes beyond.

    ``files``: (row of the table, path).
    """
    tops = [(row, top) for row, path in files[:_LOOKED_AT] if (top := _largest(path)) is not None]
    if not tops:
        return []
    row, top = max(tops, key=lambda pair: pair[1])
    if top > _WHOLE:
        what = f"a pixel of the {name} holds {top:,}, and all above {_WHOLE:,} is white"
        return [
            Fault("warning", "depth", what, file, row, column, todo="save them with 16 bits, of which all are used")
        ]
    if 0 < top < _LEAST:
        grays = top // 257 + 1
        what = (
            f"pictures of {name} have 16 bits a pixel, and none of {len(tops)} a value above {top:,}: "
            f"at the scale of {_WHOLE:,} they are dark, and {grays} of 256 grays are left"
        )
        todo = f"multiply their values by {_WHOLE // (top + 1)} before they are saved, or save 8 bits"
        return [Fault("warning", "depth", what, file, row, column, todo=todo)]
    return []


def _largest(path: Path) -> int | None:
    """The largest value of a picture of more than 8 bits; None of any other file."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as picture:
            small = picture.width * picture.height <= MAX_PIXELS
            return int(np.asarray(picture).max()) if small and picture.mode.startswith(DEEP) else None
    except Exception:  # what cannot be decoded is told of elsewhere, and Pillow raises many kinds
        return None
