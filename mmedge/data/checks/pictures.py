"""What a picture's file holds and a network is not shown: bits below the eight that are left, and further pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmedge.errors import Fault
from mmedge.preprocess.image import DEEP, FORMATS, MAX_PIXELS
from mmedge.preprocess.members import openable

_LOOKED_AT = 100
_WHOLE = 65_535
# Below a quarter of the scale two bits of the eight are never used.
_LEAST = 1 << 14


def picture_faults(name: str, files: list[tuple[int, Path]], file: str, column: str) -> list[Fault]:
    """Warnings: where no deep picture of a hundred comes near 65,535, as of a camera of 12 bits, and of further pages.

    ``files``: (row of the table, path).
    """
    looked = [(row, *found) for row, path in files[:_LOOKED_AT] if (found := _look(path)) is not None]
    faults = []
    if several := [row for row, _, pages in looked if pages > 1]:
        what = f"{len(several)} of {len(looked)} pictures of {name} have several pages or frames, and the first alone is seen"
        todo = "save each that counts as a file of its own"
        faults.append(Fault("warning", "pages", what, file, several[0], column, todo=todo))
    row, top, _ = max(looked, key=lambda each: each[1], default=(0, 0, 0))
    if 0 < top < _LEAST:
        count, grays = sum(each[1] > 0 for each in looked), top // 257 + 1
        what = (
            f"pictures of {name} have 16 bits a pixel, and none of {count} a value above {top:,}: "
            f"at the scale of {_WHOLE:,} they are dark, and {grays} of 256 grays are left"
        )
        todo = f"multiply their values by {_WHOLE // (top + 1)} before they are saved, or save 8 bits"
        faults.append(Fault("warning", "depth", what, file, row, column, todo=todo))
    return faults


def _look(path: Path) -> tuple[int, int] | None:
    """(the largest value of a picture of more than 8 bits, else 0, how many pages); None of what is no picture."""
    from PIL import Image

    try:
        with Image.open(openable(path), formats=FORMATS) as picture:
            deep = picture.mode.startswith(DEEP) and picture.width * picture.height <= MAX_PIXELS
            # What a telephone keeps behind a JPEG is the same picture smaller, or how far away its parts are.
            pages = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
            return int(np.asarray(picture).max()) if deep else 0, pages
    except Exception:  # what cannot be decoded is told of elsewhere, and Pillow raises many kinds
        return None
