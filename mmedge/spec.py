"""What a modality is: its kind, how raw values become a tensor, and that tensor's shape.

The same frozen models stand in a recipe, in an artifact's manifest and in a bundle, so that the preprocessing
of training is, word for word, the preprocessing of the device.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import ConfigDict, Field, model_validator

from mmedge.frozen import Frozen

# Samples of a sound, at its own rate and at the model's: an hour at 16 kHz. Beyond it decoding fills the memory.
MOST_SAMPLES = 60_000_000
# Samples that the windows of a sound look at, all together: seconds of computing.
_MOST_LOOKED_AT = 100_000_000
# Numbers of a modality's tensor: 1 GB of them.
_MOST_NUMBERS = 1 << 28


class ModalityBase(Frozen):
    """What every kind shares."""

    column: str | None = Field(None, description="The manifest's column; the modality's own name where null.")
    mean: tuple[float, ...] | None = Field(
        None,
        description="What is subtracted from the features; fitted on the training split where null. Of images one a channel,"
        " in units of 0 to 1 (a pixel / 255); of sounds one a band, of log-mel energies; of series one a channel, of tables"
        " one a number, in the data's own unit; of arrays one.",
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
            if self.statistics is not None and not len(self.mean) == len(self.std) == self.statistics:
                raise ValueError(f"'mean' and 'std' must have {self.statistics} values each")
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


class ImageSpec(ModalityBase):
    """An image file or array -> float32 [channels, height, width], normalised; transparent pixels become white."""

    kind: Literal["image"] = Field(description="What the modality is.")
    height: int = Field(224, ge=1, le=4096, description="Rows of the tensor, in pixels.")
    width: int = Field(224, ge=1, le=4096, description="Columns of the tensor, in pixels.")
    channels: Literal[1, 3] = Field(3, description="1 for gray, 3 for red, green and blue.")
    crop: Literal["none", "center"] = Field(
        "none", description="center keeps the aspect by cutting the longer sides; none stretches."
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
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.height, self.width)


class AudioSpec(ModalityBase):
    """A sound file or waveform -> float32 [1, mels or coefficients, frames], normalised per band."""

    kind: Literal["audio"] = Field(description="What the modality is.")
    sample_rate: int = Field(16000, ge=1000, le=192000, description="Hz that sounds are resampled to.")
    features: Literal["logmel", "mfcc"] = Field("logmel", description="Log-mel energies, or coefficients of them.")
    mels: int = Field(64, ge=4, le=256, description="Mel bands of a frame.")
    coefficients: int = Field(13, ge=2, le=64, description="Coefficients of mfcc that are kept.")
    frames: int = Field(
        100, ge=4, le=10000, description="Frames of the tensor; longer sounds are cut, shorter ones padded."
    )
    hop_ms: float = Field(10.0, gt=0, le=60_000, description="Milliseconds from one frame to the next.")
    window_ms: float = Field(25.0, gt=0, le=10_000, description="Milliseconds that a frame looks at.")
    channel: int | None = Field(
        None, ge=0, description="The channel that is heard, from 0; the mean of all where null."
    )
    take: Literal["start", "center", "end"] = Field("start", description="Which part of a longer sound is kept.")

    @model_validator(mode="after")
    def _fewer_coefficients(self) -> AudioSpec:
        if self.features == "mfcc" and self.coefficients > self.mels:
            raise ValueError(f"'coefficients' ({self.coefficients}) cannot be more than 'mels' ({self.mels})")
        return self

    @model_validator(mode="after")
    def _no_endless_sound(self) -> AudioSpec:
        if self.samples > MOST_SAMPLES:
            raise ValueError(
                f"{self.frames} frames every {self.hop_ms:g} ms at {self.sample_rate} Hz are {self.samples} samples, more"
                f" than {MOST_SAMPLES}: lower 'frames', 'hop_ms' or 'sample_rate'"
            )
        if self.frames * self.window_ms * self.sample_rate / 1000 > _MOST_LOOKED_AT:
            raise ValueError(
                f"{self.frames} windows of {self.window_ms:g} ms at {self.sample_rate} Hz take too long to compute:"
                " lower 'frames' or 'window_ms'"
            )
        return self

    @property
    def bands(self) -> int:
        return self.mels if self.features == "logmel" else self.coefficients

    @property
    def statistics(self) -> int:
        return self.bands

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, self.bands, self.frames)

    @property
    def samples(self) -> int:
        """Length in samples of the waveform that fills ``frames``; longer ones are cut, shorter ones padded."""
        return round(self.frames * self.hop_ms * self.sample_rate / 1000)


class TextSpec(ModalityBase):
    """A text -> int64 [length] token ids, ``pad`` where it is shorter; 0 everywhere where the modality is absent.

    A network whose ``forward`` takes no ``present``, and an ONNX teacher, get one token and padding for an absent text.
    """

    kind: Literal["text"] = Field(description="What the modality is.")
    length: int = Field(
        32, ge=1, le=8192, description="Tokens of the tensor; longer texts are cut, shorter ones padded."
    )
    min_length: int | None = Field(
        None,
        ge=1,
        description="Declares a dynamic length: graphs and engines take min_length to length tokens, and predict pads a text"
        " to the longest of its batch only. The network must not look at padding, which is checked.",
    )
    tokenizer: Literal["bpe", "wordpiece", "unigram"] = Field(
        "bpe",
        description="What is trained on the training split: bpe works on bytes and knows every script; wordpiece and unigram"
        " work on characters. Its tokens are pieces of words of the training texts, at most whole words: a name that is"
        " frequent in them may be one, so take names out of texts first.",
    )
    tokenizer_file: Path | None = Field(None, description="A Hugging Face tokenizer.json that is taken instead.")
    vocabulary: int = Field(2000, ge=16, le=200_000, description="Tokens that the trained tokenizer has at most.")
    normalization: Literal["NFC", "NFKC", "none"] = Field(
        "NFKC", description="The Unicode form that texts are brought to first."
    )
    lowercase: bool = Field(True, description="Whether texts are lowered.")
    fitted: str | None = Field(
        None,
        repr=False,
        description="The tokenizer itself, as JSON: it travels with the spec into every artifact and the bundle. Fitted.",
    )
    tokens: int | None = Field(None, description="How many ids the tokenizer has. Fitted.")
    pad: int = Field(0, ge=0, description="The id of padding. Fitted.")

    @model_validator(mode="after")
    def _lengths_in_order(self) -> TextSpec:
        if self.min_length is not None and self.min_length >= self.length:
            raise ValueError(f"'min_length' ({self.min_length}) must be below 'length' ({self.length})")
        return self

    @property
    def shortest(self) -> int | None:
        return self.min_length

    @property
    def dtype(self) -> str:
        return "int64"

    @property
    def reads_file(self) -> bool:
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)


class TabularSpec(ModalityBase):
    """Columns of numbers and words -> float32 [numbers, missing flags, categories]; missing where all its cells are."""

    kind: Literal["tabular"] = Field(description="What the modality is.")
    column: None = Field(None, description="A table's modality has several: see columns and categorical.")
    columns: tuple[str, ...] = Field(
        (),
        description="Columns of numbers, standardised by the training split; a missing cell becomes the training mean.",
    )
    categorical: tuple[str, ...] = Field((), description="Columns of words.")
    encoding: Literal["onehot", "ordinal"] = Field(
        "onehot",
        description="onehot: one place for unknown words, then the training split's, all 0 where the cell is missing;"
        " ordinal: 0 where unknown or missing, then equal steps up to 1.",
    )
    max_categories: int = Field(64, ge=2, description="Words of a column that are told apart, the commonest.")
    missing_indicator: bool = Field(False, description="A flag beside each number that says whether it was missing.")
    categories: dict[str, tuple[str, ...]] | None = Field(
        None,
        description="Column -> its words; fitted unless given. They are the column's own words, those of a single training"
        " row too, and travel into the bundle: drop or hash what names people.",
    )

    @model_validator(mode="after")
    def _some_columns(self) -> TabularSpec:
        if not self.columns_read:
            raise ValueError("names no column: 'columns' are numbers, 'categorical' are words")
        if len(set(self.columns_read)) < len(self.columns_read):
            raise ValueError("names a column twice")
        if self.categories is not None and set(self.categories) != set(self.categorical):
            raise ValueError("'categories' must list the values of every column of 'categorical', and of no other")
        return self

    @property
    def columns_read(self) -> tuple[str, ...]:
        return (*self.columns, *self.categorical)

    @property
    def reads_file(self) -> bool:
        return False

    @property
    def statistics(self) -> int:
        return len(self.columns)

    @property
    def shape(self) -> tuple[int, ...]:
        known = self.categories or {}
        wide = [1 if self.encoding == "ordinal" else 1 + len(known.get(name, ())) for name in self.categorical]
        return (len(self.columns) * (2 if self.missing_indicator else 1) + sum(wide),)


class SensorSpec(ModalityBase):
    """A time series (``.npy``, ``.csv`` or array) -> float32 [channels, length], normalised per channel."""

    kind: Literal["sensor"] = Field(description="What the modality is.")
    channels: int = Field(ge=1, le=4096, description="Channels of the series.")
    length: int = Field(
        ge=2, le=1_000_000, description="Time steps of the tensor; a shorter series holds its last value."
    )
    rate: float | None = Field(None, gt=0, description="Hz that series are resampled to; as they are where null.")
    source_rate: float | None = Field(None, gt=0, description="Hz of files without a time_column.")
    time_column: str | None = Field(None, description="The column of times of .csv files, in seconds.")
    channel_columns: tuple[str, ...] = Field(
        (), description="The columns of .csv files, one a channel; all but time_column where none are named."
    )
    time_first: bool = Field(False, description="Whether arrays are [time, channels] instead of [channels, time].")
    take: Literal["start", "center", "end"] = Field("start", description="Which window of a longer series is kept.")

    @model_validator(mode="after")
    def _rates_agree(self) -> SensorSpec:
        if self.time_column and not self.rate:
            raise ValueError("'time_column' needs 'rate', the rate in Hz to resample to")
        if self.rate and not (self.source_rate or self.time_column):
            raise ValueError("'rate' needs 'source_rate' in Hz, or the 'time_column' of its files")
        if len({self.time_column, *self.channel_columns}) <= len(self.channel_columns):
            raise ValueError("'channel_columns' names a column twice, or that of the times")
        if self.channel_columns and len(self.channel_columns) != self.channels:
            raise ValueError(
                f"'channel_columns' names {len(self.channel_columns)} columns for {self.channels} channels"
            )
        return self

    @property
    def statistics(self) -> int:
        return self.channels

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.length)


class ArraySpec(ModalityBase):
    """A ``.npy`` file or array of a fixed shape -> float32 of that shape: preprocessing that is the user's own."""

    kind: Literal["array"] = Field(description="What the modality is.")
    array_shape: tuple[int, ...] = Field(alias="shape", description="Its shape, without the batch.")
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @property
    def statistics(self) -> int:
        return 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array_shape


ModalitySpec = Annotated[
    Union[ImageSpec, AudioSpec, TextSpec, TabularSpec, SensorSpec, ArraySpec], Field(discriminator="kind")
]
