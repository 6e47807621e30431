"""The schedule of a training: ``teacher.train``, ``distill.train`` and their like."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmedge.frozen import Frozen
from mmedge.recipe.augment import Augment, Mix
from mmedge.recipe.privacy import Privacy
from mmedge.recipe.transfer import Lora


class Train(Frozen):
    """The schedule of the one training loop: warm-up, cosine, best checkpoint on validation."""

    epochs: int = Field(20, ge=1, le=1_000_000, description="Passes over the training split.")
    max_steps: int | None = Field(None, ge=1, description="Steps after which an epoch ends early.")
    batch_size: int = Field(64, ge=2, le=1_000_000, description="Samples a step.")
    learning_rate: float = Field(
        2e-3, gt=0, le=100, description="At its height, after warm-up. SGD wants some ten times AdamW's."
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="What makes steps of gradients.")
    momentum: float = Field(0.9, ge=0, lt=1, description="The momentum of sgd.")
    nesterov: bool = Field(False, description="Whether the momentum of sgd is Nesterov's.")
    weight_decay: float = Field(0.05, ge=0, description="Decoupled decay of weights; biases and norms have none.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    gradient_clip: float = Field(5.0, gt=0, description="Largest norm of a step's gradient.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of a label that is spread over all classes.")
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["every"] = Field(
        0.5,
        description="Share of samples that lose a random part of their modalities. every: each sample is seen three times"
        " a step, with all it has, with a random part and with the rest, so that no modality lives off another (of two"
        " modalities these are all the subsets). The built-in network runs its encoders once for the three; one of your"
        " own is run on all three.",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: a label weighs by its class's rarity."
    )
    contrast: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description="How a retrieval learns from pairs. softmax: to tell each item's own among those of the batch (InfoNCE);"
        " sigmoid: of each two by themselves whether they are a pair (SigLIP).",
    )
    focal_gamma: float = Field(
        0.0, ge=0, description="Above 0, training dwells on what is still wrong (focal loss, with this gamma)."
    )
    sampling: Literal["uniform", "balanced", "subsets"] = Field(
        "uniform",
        description="balanced: every class is drawn as often. subsets: every set of modalities that samples have is, where"
        " texts without a picture, say, outnumber the pairs.",
    )
    head_weights: dict[str, Annotated[float, Field(ge=0)]] | Literal["uncertainty"] = Field(
        {},
        description="What the loss of each head counts where a model has several, 1 where none is given; or uncertainty,"
        " which learns it (Kendall, Gal & Cipolla 2018).",
    )
    augment: dict[str, Augment] = Field({}, description="Modality -> random changes of it, or a preset's name.")
    mix: Mix | None = Field(None, description="Samples mixed with one another; null for none.")
    views: int = Field(
        1, ge=1, le=1_000_000, description="Augmented views that a sample has; epoch e sees view e modulo views."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="Of the forward pass. bf16 and fp16 are mixed precision: weights, losses, validation and what is"
        " exported stay FP32; fp16 needs a GPU.",
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="Parts in which a batch is worked through, for less memory on the same schedule. What compares samples"
        " of a batch with one another (relations, contrastive, dist) compares those of a part, as it does where several"
        " processes train.",
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="Keep the running average of the weights with this decay (0.999, say) instead."
    )
    early_stopping: int | None = Field(
        None, ge=1, description="Epochs without a better one on validation after which training ends."
    )
    compile: bool = Field(
        False, description="Run the model through torch.compile, which needs a C++ compiler (a GPU: Triton)."
    )
    checkpointing: bool = Field(
        False,
        description="Whether what blocks of the network (parts of nn.Sequential, nn.ModuleList) compute inside is computed"
        " again on the way back, and not held: memory for about a third of the time. What is learnt is the same.",
    )
    log: Literal["csv", "tensorboard"] = Field(
        "csv",
        description="tensorboard: the same as track: [tensorboard] of the whole recipe, which is newer. Every stage has a"
        " training.csv.",
    )

    freeze: tuple[str, ...] | Literal["pretrained"] = Field(
        "pretrained",
        description="What is not trained: the networks of all pretrained encoders; or modalities and layers by name, [] for"
        " none. What is frozen is run once a sample and view.",
    )
    thaw: Annotated[int, Field(ge=2)] | dict[str, Annotated[int, Field(ge=2)]] | None = Field(
        None, description="Epoch, from 1, that all that is frozen is trained from; or one for each of some names."
    )
    rates: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(
        {},
        description="Modality or layer -> what its learning rate is multiplied by; the longest name that fits counts.",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="What the learning rate of a pretrained network's block is multiplied by for each block behind it.",
    )
    lora: Lora | None = Field(
        None, description="Trains small matrices beside layers of the frozen encoders, merged into them at the end."
    )
    privacy: Privacy | None = Field(
        None,
        description="Differentially private training, by noise on gradients; null for none. For teacher and student.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> Train:
        if self.privacy and (clash := self._not_private()):
            raise ValueError(f"'privacy' cannot be kept with {clash}")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("'nesterov: true' needs 'optimizer: sgd' with a momentum")
        if self.checkpointing and self.compile:
            raise ValueError("'checkpointing' and 'compile' exclude each other: compiled code chooses what it holds")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"'accumulate: {self.accumulate}' is more parts than a batch has samples ({self.batch_size})"
            )
        return self

    @property
    def by_class(self) -> list[str]:
        """The settings that ask for classes."""
        each = {"class_weights": self.class_weights == "balanced", "sampling": self.sampling == "balanced"}
        return [key for key, asked in (each | {"focal_gamma": self.focal_gamma > 0}).items() if asked]

    def _not_private(self) -> str | None:
        """The setting by which one sample's gradient would depend on another sample, or that private training lacks."""
        whys = {
            "'modality_dropout: every': a sample has several gradients there; give a share": self.modality_dropout
            == "every",
            f"'sampling: {self.sampling}': how often a sample is drawn depends on the others": self.sampling
            != "uniform",
            "'class_weights: balanced': what a sample weighs depends on the others' classes": self.class_weights
            != "none",
            "'head_weights: uncertainty': give the weights as numbers": self.head_weights == "uncertainty",
            "'mix': a sample's gradient depends on another sample": self.mix is not None,
            f"'precision: {self.precision}': each sample's gradient is taken in fp32": self.precision != "fp32",
            "'checkpointing: true': each sample's gradient is taken by functorch": self.checkpointing,
            "'compile: true': each sample's gradient is taken by functorch": self.compile,
        }
        return next((why for why, there in whys.items() if there), None)
