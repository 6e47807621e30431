"""What an image is: its size and colours, and which part of it is seen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmedge.spec.base import ModalityBase


class ImageSpec(ModalityBase):
    """An image file or array -> float32 [channels, height, width], normalised; transparent pixels become white."""

    kind: Literal["image"] = Field(description="What the modality is.")
    height: int = Field(224, ge=1, le=4096, description="Rows of the tensor, in pixels.")
    width: int = Field(224, ge=1, le=4096, description="Columns of the tensor, in pixels.")
    channels: Literal[1, 3] = Field(3, description="1 for gray, 3 for red, green and blue.")
    crop: Literal["none", "center"] = Field(
        "none", description="center keeps the aspect by cutting the longer sides; none stretches."
    )
    crop_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="The share of what crop leaves that is seen, of its height and of its width, from the middle: 0.875 is 224"
        " pixels out of the middle of 256.",
    )
    box: tuple[str, str, str, str] | None = Field(
        None,
        description="Columns left, top, right, bottom, in pixels of the upright image: the region that is cut out first."
        " A column with a plus counts from left or top: in [x, y, +w, +h] it is a width or height.",
    )

    @model_validator(mode="after")
    def _box_of_a_column(self) -> ImageSpec:
        if self.box and not self.column:
            raise ValueError("'box' needs 'column': the column of the image's path")
        if len(set(self.columns_read)) < len(self.columns_read):
            raise ValueError("'box' names a column twice")
        return self

    @property
    def columns_read(self) -> tuple[str, ...]:
        return (*super().columns_read, *(column.removeprefix("+") for column in self.box or ()))

    @property
    def statistics(self) -> int:
        return self.channels

    @property
    def statistics_shape(self) -> tuple[int, ...]:
        return (self.channels, 1, 1)

    @property
    def pixels(self) -> bool:
        return True

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.height, self.width)
