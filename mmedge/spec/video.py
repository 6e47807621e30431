"""What a video is: some of its frames, each an image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmedge.spec.base import ModalityBase
from mmedge.spec.image import ImageSpec


class VideoSpec(ModalityBase):
    """A video file, a folder of images or an array -> float32 [frames, channels, height, width], each frame as an image."""

    kind: Literal["video"] = Field(description="What the modality is.")
    frames: int = Field(
        8,
        ge=1,
        le=1024,
        description="Frames of the tensor, evenly spread over the video: the middle of each of so many equal parts. A shorter"
        " video repeats frames.",
    )
    height: int = Field(112, ge=1, le=4096, description="Rows of a frame, in pixels.")
    width: int = Field(112, ge=1, le=4096, description="Columns of a frame, in pixels.")
    channels: Literal[1, 3] = Field(3, description="1 for gray, 3 for red, green and blue.")
    crop: Literal["none", "center"] = Field(
        "none", description="center keeps the aspect by cutting the longer sides; none stretches."
    )

    @property
    def frame(self) -> ImageSpec:
        """What each frame is, with the video's statistics."""
        keys = ("height", "width", "channels", "crop", "mean", "std")
        return ImageSpec(kind="image", **{key: getattr(self, key) for key in keys})

    @property
    def statistics(self) -> int:
        return self.channels

    @property
    def statistics_shape(self) -> tuple[int, ...]:
        return (1, self.channels, 1, 1)

    @property
    def pixels(self) -> bool:
        return True

    @property
    def reads_folder(self) -> bool:
        return True

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.frames, self.channels, self.height, self.width)
