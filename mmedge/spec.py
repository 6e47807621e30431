"""What a modality is: its kind, how raw values become a tensor, and that tensor's shape.

The same frozen models stand in a recipe, in an artifact's manifest and in a bundle, so that the preprocessing
of training is, word for word, the preprocessing of the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Frozen(BaseModel):
    """A typed value that is never written to and takes no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Normalised(Frozen):
    """What every modality has: mean and std, given by the recipe or fitted on the training split. Both, or neither."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def statistics(self) -> int:
        """How many means (and as many stds) the modality has."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _fitting_statistics(self) -> Normalised:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give 'mean' and 'std' together, or neither, to have them fitted")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != self.statistics or len(self.std) != self.statistics:
                raise ValueError(f"'mean' and 'std' must have {self.statistics} values each")
            if min(self.std) <= 0:
                raise ValueError("every value of 'std' must be above 0")
        return self


class ImageSpec(Normalised):
    """An image file or array -> float32 [channels, height, width], normalised by the training split's statistics."""

    kind: Literal["image"]
    column: str | None = None
    height: int = Field(224, ge=1, le=4096)
    width: int = Field(224, ge=1, le=4096)
    channels: Literal[1, 3] = 3

    @property
    def columns_read(self) -> tuple[str, ...]:
        return (self.column,) if self.column else ()

    @property
    def statistics(self) -> int:
        return self.channels

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.height, self.width)


class AudioSpec(Normalised):
    """A sound file or waveform -> float32 [1, mels, frames]: log-mel energies, normalised per band."""

    kind: Literal["audio"]
    column: str | None = None
    sample_rate: int = Field(16000, ge=1000, le=192000)
    mels: int = Field(64, ge=4, le=256)
    frames: int = Field(100, ge=4, le=10000)
    hop_ms: float = Field(10.0, gt=0)
    window_ms: float = Field(25.0, gt=0)

    @property
    def columns_read(self) -> tuple[str, ...]:
        return (self.column,) if self.column else ()

    @property
    def statistics(self) -> int:
        return self.mels

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, self.mels, self.frames)

    @property
    def samples(self) -> int:
        """Length in samples of the waveform that fills ``frames``; longer ones are cut, shorter ones padded."""
        return round(self.frames * self.hop_ms * self.sample_rate / 1000)


class TabularSpec(Normalised):
    """Numeric columns -> float32 [columns], standardised by the training split."""

    kind: Literal["tabular"]
    columns: tuple[str, ...]

    @field_validator("columns")
    @classmethod
    def _some_columns(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if not columns:
            raise ValueError("names no column")
        return columns

    @property
    def columns_read(self) -> tuple[str, ...]:
        return self.columns

    @property
    def statistics(self) -> int:
        return len(self.columns)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.columns),)


class ArraySpec(Normalised):
    """A ``.npy`` file or array of a fixed shape -> float32 of that shape: preprocessing that is the user's own."""

    kind: Literal["array"]
    column: str | None = None
    array_shape: tuple[int, ...] = Field(alias="shape")
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @property
    def columns_read(self) -> tuple[str, ...]:
        return (self.column,) if self.column else ()

    @property
    def statistics(self) -> int:
        return 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array_shape


ModalitySpec = Annotated[Union[ImageSpec, AudioSpec, TabularSpec, ArraySpec], Field(discriminator="kind")]


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """All 2^M - 1 subsets that have something in them, smallest first; ``"+".join`` of one is its name."""
    return [chosen for size in range(1, len(modalities) + 1) for chosen in combinations(modalities, size)]


class Contract(Frozen):
    """What a model promises: its inputs in order, its output, its labels. ``present`` is bool [batch, modalities].

    ``labels`` are the classes in the order of the output's columns; empty for regression.
    """

    task: Literal["classification", "regression"]
    modalities: dict[str, ModalitySpec]
    labels: tuple[str, ...] = ()
    output: str = "logits"

    @property
    def outputs(self) -> int:
        return len(self.labels) or 1

    def only(self, modalities: Sequence[str]) -> Contract:
        """The contract of a model that takes only some of the modalities, in this contract's order."""
        return self.model_copy(
            update={"modalities": {name: spec for name, spec in self.modalities.items() if name in modalities}}
        )
