"""The preprocessing that a pretrained encoder was trained under, as a spec of ours; what is not the same is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmedge.spec import ImageSpec, ModalitySpec

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Brought:
    """``spec``: the modality as the encoder takes it; ``assumed``: what its files do not say, or say otherwise than is done.

    ``said``: {key of the spec: value} that its files say and that is for the recipe to do.
    """

    spec: ModalitySpec
    assumed: tuple[str, ...] = ()
    said: Mapping[str, Any] = field(default_factory=dict)


def changed(spec: ModalitySpec, **values: Any) -> ModalitySpec:
    """A spec with some fields of it changed, and validated again."""
    return type(spec).model_validate({**spec.model_dump(by_alias=True), **values})


def of_image(
    spec: ImageSpec, size: tuple[int, int], mean: Any, std: Any, *, channels: int = 3, center: bool, share: float = 1.0
) -> ModalitySpec:
    """A picture in the size, and with the statistics of pixels in 0 to 1, that an encoder wants. Column and box are the data's.

    ``share``: of a picture's height and width, what is left where an encoder's own preprocessing cuts the margin off.
    """
    seen = {"crop": "center" if center else "none", "crop_share": share}
    return changed(spec, height=size[0], width=size[1], channels=channels, mean=tuple(mean), std=tuple(std), **seen)


def size_of(size: Any) -> tuple[int, int] | None:
    """(height, width) of what image processors call ``size`` or ``crop_size``: a number, or a mapping of several forms."""
    if isinstance(size, Mapping):
        side = size.get("shortest_edge", size.get("longest_edge"))
        size = (size.get("height", side), size.get("width", side))
    if isinstance(size, int):
        size = (size, size)
    return (int(size[0]), int(size[1])) if size and all(isinstance(side, int) for side in size) else None
