"""Early fusion: modalities of equal shape are stacked as channels, and one encoder sees them all at once."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mmedge.errors import UsageError
from mmedge.models.fusions.concat import Concat
from mmedge.spec import ArraySpec, ImageSpec, ModalitySpec, SensorSpec, TabularSpec


class Early(Concat):
    """A linear layer over what the one encoder gives. ``forward``: as in ``FUSIONS``, of a single float32 [batch, embedding].

    Early fusion (Snoek, Worring & Smeulders 2005, "Early versus late fusion") joins inputs, so that there is nothing else
    to join.
    """

    def __init__(self, count: int, embedding: int, hidden: int) -> None:
        super().__init__(nn.Linear(count * embedding, hidden), nn.ReLU())


def stacked(specs: Mapping[str, ModalitySpec]) -> ModalitySpec:
    """The spec of all modalities as channels of one: maps become a picture, series a sensor, numbers a table's.

    Raises UsageError where they are ids, or their shapes but for the channels differ.
    """
    shapes = {name: tuple(spec.shape) for name, spec in specs.items()}
    ids = [name for name, spec in specs.items() if spec.dtype != "float32"]
    if ids or len({(len(shape), shape[1:]) for shape in shapes.values()}) > 1:
        each = ", ".join(f"{name} {'ids' if name in ids else list(shape)}" for name, shape in shapes.items())
        raise UsageError(
            f"fusion: early stacks inputs of equal shape, and these are {each}",
            where="model.fusion",
            todo="give them one shape in data.modalities (channels may differ), or take another fusion",
        )
    channels, rest = sum(shape[0] for shape in shapes.values()), next(iter(shapes.values()))[1:]
    match rest:
        case (height, width):
            return ImageSpec.model_construct(kind="image", channels=channels, height=height, width=width)  # type: ignore[arg-type]
        case (length,):
            return SensorSpec.model_construct(kind="sensor", channels=channels, length=length)
        case ():
            return TabularSpec.model_construct(kind="tabular", columns=tuple(map(str, range(channels))))
    return ArraySpec.model_validate({"kind": "array", "shape": (channels, *rest)})
