"""An encoder that has learnt elsewhere, in a model's section: where its weights are, and how it comes to one vector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import Discriminator, Field, JsonValue, Tag, field_validator, model_validator

from mmedge.frozen import Frozen

# How a folder is told from a name on the Hub, which has none of these in front.
_FOLDER = (".", "/", "~")


class Encoder(Frozen):
    """A built-in encoder: which, and of what size."""

    kind: str | None = Field(
        None,
        description="conv, resnet, mobilenet, convnext or transformer of pictures, sounds and a video's frames; conv, gru or"
        " transformer of texts and series; gru or conformer of spectrograms too; mlp or transformer of tables; pointnet of"
        " clouds."
        " Null: the first.",
    )
    widths: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        (16, 32, 48),
        min_length=1,
        description="Channels of each stage. A transformer and a gru have one width, the last.",
    )
    depth: int = Field(
        1, ge=1, le=1000, description="Layers or blocks in each stage, or in all where there is one width."
    )
    heads: int = Field(4, ge=1, le=1024, description="Attention heads of a transformer, which divide its width.")
    patch: int = Field(8, ge=1, le=1024, description="Side of the patches that are a transformer's tokens, in pixels.")
    frames: Literal["mean", "attention"] = Field(
        "mean",
        description="How the frames of a video are joined: their mean, which knows no order; or attention among them, with"
        " 'heads' that divide model.embedding, which knows it.",
    )


class Pretrained(Frozen):
    """An encoder that has learnt elsewhere: one of ``hf``, ``timm`` and ``architecture``. Weights are safetensors alone."""

    hf: Path | str | None = Field(
        None,
        description="A folder as save_pretrained writes it, which begins with ./, ../, / or ~; or a model's name on the"
        " Hugging Face Hub, owner/name, which is downloaded once. A teacher preprocesses as the folder says.",
    )
    timm: str | None = Field(
        None, description="A model's name in timm; 'weights' has what it learnt. A teacher preprocesses as timm says."
    )
    architecture: Literal["efficientnet-lite0"] | None = Field(
        None, description="A network that mmedge has itself, for weights in the names that they are published under."
    )
    weights: Path | None = Field(None, description="Safetensors, of timm and architecture; a folder has its own.")
    pooling: Literal["cls", "mean", "map", "projected"] | None = Field(
        None,
        description="How tokens become one vector. cls: the first; mean: over all that are not padding; map: by attention"
        " from a learned query; projected: as the dual encoder itself does (CLIP, SigLIP, CLAP), in the space that its towers"
        " share. Null: what the folder says (1_Pooling), else mean. Maps of channels are averaged.",
    )
    config: dict[str, JsonValue] | None = Field(
        None, repr=False, description="The architecture of hf, which travels with the model. Fitted."
    )

    @field_validator("hf", mode="before")
    @classmethod
    def _folder_or_name(cls, given: Any) -> Any:
        return Path(given) if isinstance(given, str) and given.startswith(_FOLDER) else given

    @model_validator(mode="after")
    def _one_origin(self) -> Pretrained:
        if sum(origin is not None for origin in (self.hf, self.timm, self.architecture)) != 1:
            raise ValueError("name one of 'hf', 'timm' and 'architecture'")
        if self.pooling == "projected" and self.hf is None:
            raise ValueError("'pooling: projected' is of dual encoders, which hf names")
        if self.hf is not None and self.weights is not None:
            raise ValueError("'weights' belongs to timm and architecture: a folder of hf has its own")
        return self


def _which(given: Any) -> str:
    """Which of the two forms is meant, so that faults are told of that one."""
    names = given if isinstance(given, dict) else type(given).model_fields if isinstance(given, Pretrained) else ()
    return "pretrained" if {"hf", "timm", "architecture"} & set(names) else "built-in"


AnyEncoder = Annotated[
    Union[Annotated[Encoder, Tag("built-in")], Annotated[Pretrained, Tag("pretrained")]], Discriminator(_which)
]
