"""The section ``model`` of a teacher or a student: which network, and of what size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mmedge.frozen import Frozen
from mmedge.recipe.pretrained import AnyEncoder, Pretrained


class TextDecoder(Frozen):
    """What writes a text, token by token: which, and of what size."""

    kind: Literal["gru", "transformer"] = Field(
        "gru",
        description="gru: a step costs the same wherever it stands; transformer: it looks back at all that was written.",
    )
    width: int = Field(64, ge=1, le=65_536, description="Features of a token.")
    depth: int = Field(1, ge=1, le=1000, description="Layers, one behind the other.")
    heads: int = Field(4, ge=1, le=1024, description="Attention heads of a transformer, which divide its width.")
    memory: int = Field(4, ge=1, le=1024, description="Tokens that a transformer sees of the fused features.")

    @model_validator(mode="after")
    def _heads_divide(self) -> TextDecoder:
        if self.kind == "transformer" and self.width % self.heads:
            raise ValueError(f"'heads' ({self.heads}) must divide 'width' ({self.width})")
        return self


class TextInputs(Frozen):
    """The parameters of a ``forward`` that takes two tensors of one text."""

    ids: str = Field(description="That of the token ids.")
    mask: str = Field(description="That of the attention mask, int64: 1 where a token is, 0 where padding is.")


class Model(Frozen):
    """A network: the built-in fusion network, or a user's own where ``factory`` names one."""

    factory: str | None = Field(
        None,
        description="A network of your own as module:factory. One for regression that has no weights yet gives outputs in"
        " standard units of the training targets.",
    )
    args: dict[str, Any] = Field({}, description="Keyword arguments that the factory is called with.")
    inputs: dict[str, str | TextInputs] = Field(
        {},
        description="Modality -> name of the parameter of the factory's forward; of a text both that of its ids and that of its"
        " attention mask, which follows from the padding: {ids: input_ids, mask: attention_mask}.",
    )
    outputs: tuple[str, ...] = Field(
        (),
        description="Names of what forward gives and the graph shall have, first the one that is judged, which is called"
        " logits there. Left out: every tensor with a row a sample; judged is the one called logits, or the only one."
        " What a tuple holds is output_0, output_1, ...",
    )
    weights: Path | None = Field(
        None, description="Safetensors, or a checkpoint that torch.load(weights_only=True) reads."
    )
    modalities: tuple[str, ...] | None = Field(
        None, description="What the network takes; all of the data's where null."
    )
    hallucinate: tuple[str, ...] = Field(
        (),
        description="Modalities of the data that the network does not take and imagines: a branch of its own makes their"
        " features from those it has, taught by the teacher's encoder.",
    )
    encoders: dict[str, AnyEncoder] = Field(
        {},
        description="Modality -> its encoder: which built-in one, and of what size; or one that has learnt elsewhere.",
    )
    embedding: int = Field(64, ge=1, le=65_536, description="Features that each built-in encoder gives to fusion.")
    fusion: Literal[
        "concat",
        "sum",
        "gated",
        "bilinear",
        "attention",
        "bottleneck",
        "tokens",
        "average",
        "votes",
        "stacking",
        "early",
    ] = Field(
        "concat",
        description="How the built-in network joins the modalities: a linear layer over all; a weighted sum, the cheapest;"
        " gates that weigh each modality sample by sample; products of linear forms; attention among them; transformers over the"
        " tokens of each, which meet in a few learned ones (bottleneck), or one over all tokens (tokens); the mean of what each"
        " modality alone would decide, by learned weights (votes), or by weights that are fitted on validation rows after training"
        " (stacking); early stacks inputs of equal shape as channels, for the first modality's encoder.",
    )
    fusion_weights: dict[str, Annotated[float, Field(ge=0, le=1e6)]] = Field(
        {},
        description="Modality -> what it counts, of all modalities: weights of the sum's features, or the ratio of the average's"
        " decisions. Learned in a sum and equal in an average where empty.",
    )
    ensemble: int = Field(
        1,
        ge=1,
        le=64,
        description="Of a teacher: networks of this section that are trained one after another, each from a seed of its own,"
        " and give the mean of their outputs. Other networks beside it are distill.teachers.",
    )
    layers: dict[str, Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]] = Field(
        {},
        description="Modality, or a list of blocks as in named_modules() -> the blocks of it that are kept, counted from 0.",
    )
    hidden: int = Field(
        64, ge=1, le=65_536, description="Width of the built-in fusion's hidden layer, or each tower's."
    )
    dimensions: int = Field(
        64, ge=2, le=65_536, description="Of a retrieval's embeddings; those of teacher and student may differ."
    )
    decoder: int = Field(
        32, ge=1, le=65_536, description="Channels of the built-in decoder of arrays, where a head gives frames."
    )
    text_decoder: TextDecoder = Field(TextDecoder(), description="Of generation: what writes the text.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of the built-in fusion's features dropped in training.")
    token_dropout: float = Field(
        0.3, ge=0, lt=1, description="Share of a text's tokens that its built-in encoder does not see in training."
    )
    norm: Literal["batch", "group"] = Field(
        "batch",
        description="What normalises between the built-in network's convolutions: a batch (folded into them when exported),"
        " or groups of four channels within each sample, which private training needs.",
    )
    text_pooling: Literal["max", "mean"] = Field(
        "max",
        description="How the built-in encoder of a text comes to one vector. max: the sum of the tokens' embeddings beside"
        " the most that each convolution found anywhere; mean: the mean of the convolutions, as version 0.1 had it.",
    )

    @property
    def parameters(self) -> dict[str, str]:
        """{modality: the parameter that gets its tensor}, of those that ``inputs`` names."""
        return {name: given if isinstance(given, str) else given.ids for name, given in self.inputs.items()}

    @property
    def masks(self) -> dict[str, str]:
        """{modality: the parameter that gets its attention mask}."""
        return {name: given.mask for name, given in self.inputs.items() if isinstance(given, TextInputs)}

    @property
    def pretrained(self) -> dict[str, Pretrained]:
        """The encoders that have learnt elsewhere, by modality."""
        return {name: encoder for name, encoder in self.encoders.items() if isinstance(encoder, Pretrained)}

    @property
    def encodes_each(self) -> bool:
        """Whether it is a built-in network that has an encoder for each modality, which gives one vector."""
        return self.factory is None and self.fusion not in ("early", "bottleneck", "tokens")

    @property
    def foreign(self) -> bool:
        """Whether code that is not mmedge's computes in it, which may be what no graph can hold."""
        return self.factory is not None or bool(self.pretrained)

    proposed: str | None = Field(None, repr=False, description="Why a budget's network has these encoders. Fitted.")

    @field_validator("factory")
    @classmethod
    def _module_and_attribute(cls, factory: str | None) -> str | None:
        if factory is not None and (factory.count(":") != 1 or not all(factory.split(":"))):
            raise ValueError(f"must be 'module:factory', not {factory!r}")
        return factory

    @model_validator(mode="after")
    def _imagines_what_it_lacks(self) -> Model:
        if self.hallucinate and self.factory:
            raise ValueError("'hallucinate' belongs to the built-in network; teach a branch of your own by a hint")
        if self.hallucinate and (self.modalities is None or set(self.hallucinate) & set(self.modalities)):
            raise ValueError("'hallucinate' names modalities that are not among 'modalities'")
        return self

    @model_validator(mode="after")
    def _names_its_own_outputs(self) -> Model:
        if len(set(self.outputs)) < len(self.outputs):
            raise ValueError("'outputs' names one twice")
        return self

    @model_validator(mode="after")
    def _each_trained(self) -> Model:
        if self.ensemble > 1 and self.weights:
            raise ValueError(
                "'weights' are one network's: leave out 'ensemble', and name the others under distill.teachers"
            )
        return self

    @model_validator(mode="after")
    def _encoders_of_its_own(self) -> Model:
        if self.factory and self.pretrained:
            raise ValueError("'encoders' are the built-in network's: a network of your own loads its weights itself")
        return self

    @field_validator("modalities")
    @classmethod
    def _some_and_each_once(cls, modalities: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if modalities is not None and (not modalities or len(set(modalities)) < len(modalities)):
            raise ValueError("must name at least one modality, each once; leave it out for all of them")
        return modalities
