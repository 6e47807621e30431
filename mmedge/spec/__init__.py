"""What a modality is: its kind, how raw values become a tensor, and that tensor's shape.

The same frozen models stand in a recipe, in an artifact's manifest and in a bundle, so that the preprocessing
of training is, word for word, the preprocessing of the device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Union

from pydantic import ConfigDict, Field, model_validator

from mmedge.spec.base import ModalityBase
from mmedge.spec.image import ImageSpec as ImageSpec
from mmedge.spec.points import PointsSpec as PointsSpec
from mmedge.spec.sound import MOST_SAMPLES as MOST_SAMPLES
from mmedge.spec.sound import AudioSpec as AudioSpec
from mmedge.spec.video import VideoSpec as VideoSpec


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
    def fitted_statistics(self) -> bool:
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
    def statistics_shape(self) -> tuple[int, ...]:
        return (self.channels, 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.length)


class ArraySpec(ModalityBase):
    """A ``.npy`` file or array of a fixed shape -> float32 of that shape, or int64 of ids: preprocessing that is the user's own."""

    kind: Literal["array"] = Field(description="What the modality is.")
    array_shape: tuple[int, ...] = Field(alias="shape", description="Its shape, without the batch.")
    ids: int | None = Field(
        None,
        ge=2,
        le=1 << 31,
        description="It holds ids, of tokens or categories, 0 to so many less one: int64, as it is. 0 is padding to the"
        " built-in encoder. Null: it holds numbers.",
    )
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ids_as_they_are(self) -> ArraySpec:
        if self.ids is not None and self.mean is not None:
            raise ValueError("'ids' are taken as they are: leave out 'mean' and 'std'")
        return self

    @property
    def statistics(self) -> int:
        return 1

    @property
    def fitted_statistics(self) -> bool:
        return self.ids is None

    @property
    def dtype(self) -> str:
        return "float32" if self.ids is None else "int64"

    @property
    def tokens(self) -> int | None:
        """How many ids there are, as a text has."""
        return self.ids

    @property
    def pad(self) -> int:
        """The id of padding, as a text has."""
        return 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array_shape


ModalitySpec = Annotated[
    Union[ImageSpec, AudioSpec, TextSpec, TabularSpec, SensorSpec, ArraySpec, PointsSpec, VideoSpec],
    Field(discriminator="kind"),
]
