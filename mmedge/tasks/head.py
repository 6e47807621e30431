"""A named output of a model, as its contract describes it, and the target that it learns, as a recipe does."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mmedge.errors import did_you_mean
from mmedge.frozen import Frozen


def _known(task: str) -> str:
    from mmedge.tasks import TASKS  # the table imports the tasks, which import this

    if task not in TASKS:
        raise ValueError(
            f"this version knows no task {task!r}{did_you_mean(task, TASKS)}; it knows {', '.join(map(repr, TASKS))}"
        )
    return task


TaskName = Annotated[str, AfterValidator(_known)]
# A class's name, its accents composed as those of the data's labels are; a recipe may write it as a number.
Label = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(partial(unicodedata.normalize, "NFC"))]


class Texts(Frozen):
    """How texts that are learned to be written become tokens, and how a trained network writes them."""

    length: int = Field(
        24, ge=1, le=512, description="Tokens of a text at most: longer ones are cut, and none longer is written."
    )
    vocabulary: int = Field(
        400,
        ge=258,
        le=200_000,
        description="Tokens that the tokenizer has at most: the 256 bytes, so that it knows every script, and the commonest"
        " pieces of words of the training texts.",
    )
    normalization: Literal["NFC", "NFKC", "none"] = Field(
        "NFKC", description="The Unicode form that texts are brought to first."
    )
    lowercase: bool = Field(True, description="Whether texts are lowered.")
    beams: int = Field(
        1,
        ge=1,
        le=64,
        description="Beginnings that are followed beside each other when a text is written: 1 takes the likeliest token each"
        " time (greedy); each more costs as much again and finds likelier texts (beam search).",
    )

    @property
    def tokenizer(self) -> str:
        """The kind of tokenizer that is trained."""
        return "bpe"


class Decoding(Frozen):
    """An output that takes several calls of a network: tokens that are written one after another, each seeing those before.

    Ids are those of the tokenizer; 0 is padding, and ``end``, one more than they are, both begins and ends a text.
    """

    fitted: str = Field(repr=False, description="The tokenizer itself, as JSON.")
    end: int = Field(description="The token that ends a text, and that the first step is given.")
    length: int = Field(description="Tokens of a text at most, without the end.")
    beams: int = Field(1, description="Beginnings that are followed beside each other.")

    @property
    def vocabulary(self) -> int:
        """The tokens among which each step chooses."""
        return self.end + 1

    @property
    def steps(self) -> int:
        """Calls of the decoder at most: one a token and one for the end."""
        return self.length + 1


class Head(Frozen):
    """An output of a model: what it means and what its columns are."""

    task: TaskName = Field(description="What the output means and how it is judged: a row of the table of tasks.")
    labels: tuple[str, ...] = Field((), description="Classes, labels or grades, in the order that the task gives them.")
    values: tuple[str, ...] = Field((), description="Names of the numbers, where the output is several.")
    mean: float | tuple[float, ...] = Field(
        0.0, description="Of the training targets, in their own unit, where they are numbers; one each of several."
    )
    std: float | tuple[float, ...] = Field(1.0, description="Their standard deviation, in the same unit.")
    temperature: float = Field(
        1.0, gt=0, description="That outputs are divided by before they become probabilities, where they tell some."
    )
    towers: dict[str, tuple[str, ...]] = Field(
        {}, description="Where the output is embeddings: tower -> the modalities that it sees, in the output's order."
    )
    dimensions: int = Field(0, description="Of the space that the towers share: columns of the output for each.")
    shape: tuple[int, ...] = Field(
        (), description="Where the output is an array, flat: its most frames, and a frame's."
    )
    varies: bool = Field(False, description="Whether arrays may have fewer frames: the last column is how many.")
    log_mel: bool = Field(False, description="Whether frames are natural logarithms of mel energies.")
    distance: Literal["l1", "mse"] = Field("l1", description="What training minimises between arrays.")

    decoding: Decoding | None = Field(
        None, description="Where the output is a text: how it is written, token by token."
    )

    def at(self, temperature: float) -> Head:
        """The head whose probabilities are taken at a temperature."""
        return self.model_copy(update={"temperature": temperature})

    def only(self, modalities: Collection[str]) -> Head:
        """The head of a model that takes only some of the modalities: towers see what is left of theirs."""
        if not self.towers:
            return self
        left = {tower: tuple(name for name in sees if name in modalities) for tower, sees in self.towers.items()}
        return self.model_copy(update={"towers": {tower: sees for tower, sees in left.items() if sees}})


class Target(Frozen):
    """The target that a head learns: a column of the data, and how its cells are read."""

    task: TaskName = Field("classification", description="What its cells are.")
    column: str | tuple[str, ...] | None = Field(
        None,
        description="The column of the data; the head's own name where none is given. Of a regression several, each a value.",
    )
    separator: str = Field(
        ";", min_length=1, max_length=3, description="What stands between the labels of a cell that may hold several."
    )
    order: tuple[Label, ...] = Field(
        (), description="The grades of an ordinal target, lowest first; of numbers their own order where none is given."
    )
    classes: tuple[Label, ...] = Field(
        (),
        description="All classes or labels, in the order of the output, where the data at hand may lack some: weights that"
        " know more of them. Left out: those of the training split, sorted.",
    )
    towers: dict[str, tuple[str, ...]] = Field(
        {}, description="Of retrieval: tower -> the modalities that it sees; each modality its own where none is named."
    )
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="Of frames: an array's most frames, then a frame's shape; those of training where none is declared.",
    )
    lengths: bool | None = Field(
        None, description="Of frames: whether arrays may be shorter than the shape; as training has it when null."
    )
    log_mel: bool = Field(
        False,
        description="Of frames: that a frame is the natural logarithms of mel energies, judged by mel-cepstral distortion too.",
    )
    distance: Literal["l1", "mse"] = Field(
        "l1",
        description="Of frames: what training minimises, between outputs and targets or a teacher's outputs alike.",
    )
    text: Texts = Field(Texts(), description="Of generation: how its texts become tokens and are written.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a cell is joined from, where it is several."""
        return self.column if isinstance(self.column, tuple) else ()
