"""What a cloud of points is: how many of them, which values each has, and how it is scaled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmedge.spec.base import ModalityBase

_PLACE = ("x", "y", "z")


class PointsSpec(ModalityBase):
    """A cloud (``.npy``, ``.ply``, ``.bin`` or array) -> float32 [3 + extras + 1, points]: places, extras, and last a mask.

    The mask is 1 where a point is, and 0 where the cloud had too few; there all else is 0, and the built-in encoder does not look.
    """

    kind: Literal["points"] = Field(description="What the modality is.")
    points: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Points of the tensor. Larger clouds are sampled, always alike; smaller ones are padded, and masked.",
    )
    extras: tuple[str, ...] = Field(
        (),
        description="Values of a point beside its place, such as intensity: the properties of these names in .ply files; in"
        " .npy and .bin files the columns behind x, y and z, in this order.",
    )
    values: int | None = Field(
        None,
        ge=3,
        le=64,
        description="Float32 values that .bin files hold a point; null: 4, as KITTI's (nuScenes' have 5).",
    )
    sampling: Literal["random", "farthest"] = Field(
        "random",
        description="Which points of a larger cloud are kept. random: by a seed that is always the same; farthest: each as far"
        " as may be from those before it, which keeps the form of sparse parts and takes longer; searched among 2^29 /"
        " 'points' points at most (half a million of 1024), drawn as random does.",
    )
    scale: Literal["sphere", "none"] = Field(
        "sphere",
        description="sphere: the cloud's mean is its origin and its farthest point 1 away from it; none: places stay in the"
        " files' own unit and are standardised as other values are, where the distance tells something.",
    )
    up: Literal["x", "y", "z"] = Field("z", description="The vertical axis, about which views of a cloud are turned.")

    @model_validator(mode="after")
    def _extras_named_once(self) -> PointsSpec:
        if len({*self.extras, *_PLACE}) < len(self.extras) + len(_PLACE):
            raise ValueError("'extras' names a value twice, or a place")
        if self.values is not None and self.values < self.channels:
            raise ValueError(f"'values' ({self.values}) are fewer than x, y, z and 'extras' ({self.channels})")
        return self

    @property
    def channels(self) -> int:
        """Values a point: its place and ``extras``, without the mask."""
        return len(_PLACE) + len(self.extras)

    @property
    def ordered(self) -> bool:
        return False

    @property
    def statistics(self) -> int:
        return self.channels

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels + 1, self.points)
