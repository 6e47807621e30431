"""What every kind of modality shares."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, model_validator

from mmedge.frozen import Frozen

# Numbers of a modality's tensor: 1 GB of them.
_MOST_NUMBERS = 1 << 28


class ModalityBase(Frozen):
    """What every kind shares."""

    column: str | None = Field(None, description="The manifest's column; the modality's own name where null.")
    mean: tuple[float, ...] | None = Field(
        None,
        description="What is subtracted from the features; fitted on the training split where null. Of images one a channel,"
        " in units of 0 to 1 (a pixel / 255); of sounds one a band, of log-mel energies; of series one a channel, of tables"
        " one a number, in the data's own unit; of arrays one. One alone is that of all channels or bands. Waveforms and"
        " whisper's log-mel stay as they are where null.",
    )
    std: tuple[float, ...] | None = Field(
        None, description="What they are divided by then: as many as mean has, in the same unit, and fitted like it."
    )

    @property
    def columns_read(self) -> tuple[str, ...]:
        """The manifest's columns that are named; empty where the modality's own name is the column."""
        return (self.column,) if self.column else ()

    @property
    def statistics(self) -> int | None:
        """How many means (and as many stds) the kind has; None where it has none of its own."""
        return None

    @property
    def statistics_shape(self) -> tuple[int, ...]:
        """The shape that they are spread over a sample's with: 1 along the axes that share one; all 1 where there is one."""
        return (1,) * len(self.shape)

    @property
    def pixels(self) -> bool:
        """Whether its raw features are 256 grays of 0 to 1."""
        return False

    @property
    def ordered(self) -> bool:
        """Whether a place of the tensor means the same in each sample."""
        return True

    @property
    def blends(self) -> bool:
        """Whether a weighted sum of two samples is one."""
        return self.dtype == "float32" and self.ordered

    @property
    def fitted_statistics(self) -> bool:
        """Whether mean and std are fitted where they are not given; the features stay as they are otherwise."""
        return True

    @model_validator(mode="before")
    @classmethod
    def _lengths_of_texts_alone(cls, values: Any) -> Any:
        if isinstance(values, dict) and "min_length" in values and "min_length" not in cls.model_fields:
            raise ValueError(
                "'min_length' is a text's: a network can tell a text's padding, by its token, and leave it out; the silence or"
                " the last value that sounds and series are padded with are data to it, so that these have one length"
            )
        return values

    @model_validator(mode="after")
    def _fitting_statistics(self) -> ModalityBase:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give 'mean' and 'std' together, or neither, to have them fitted")
        if self.mean is not None and self.std is not None:
            counts = {len(self.mean), len(self.std)}
            if self.statistics is not None and counts not in ({self.statistics}, {1}):
                raise ValueError(f"'mean' and 'std' must have {self.statistics} values each, or one")
            if min(self.std, default=1) <= 0:
                raise ValueError("every value of 'std' must be above 0")
        return self

    @model_validator(mode="after")
    def _of_a_size_that_is_one(self) -> ModalityBase:
        if min(self.shape, default=1) < 1 or math.prod(self.shape) > _MOST_NUMBERS:
            raise ValueError(f"a tensor of shape {list(self.shape)} is empty, or larger than {_MOST_NUMBERS} numbers")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's, without the batch."""
        raise NotImplementedError

    @property
    def dtype(self) -> str:
        """The tensor's numpy dtype."""
        return "float32"

    @property
    def shortest(self) -> int | None:
        """The least size of the tensor's last axis, where graphs take any from it to ``shape``'s; None where it is fixed."""
        return None

    @property
    def reads_file(self) -> bool:
        """Whether the first column holds paths of files."""
        return True

    @property
    def reads_folder(self) -> bool:
        """Whether a path may be a folder's, too, whose files are one sample."""
        return False
