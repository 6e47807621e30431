"""A table's cells as what ``preprocess`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmedge.preprocess.members import content
from mmedge.spec import ImageSpec, ModalitySpec, TabularSpec, TextSpec


def value_of(spec: ModalitySpec, cells: Sequence[Any], folder: Path) -> Any:
    """The value of a modality, from the cells of the columns that it reads; relative paths are in ``folder``.

    A file inside of an archive is its bytes; raises MmedgeError where the archive has lost them.
    """
    if isinstance(spec, TabularSpec):
        return list(cells)
    if isinstance(spec, TextSpec):
        return cells[0]
    path = folder / cells[0]
    held = content(path) if ".tar!" in cells[0] else None
    if isinstance(spec, ImageSpec) and spec.box and any(cell is not None for cell in cells[1:]):
        return path if held is None else held, tuple(cells[1:])
    return path if held is None else held
