"""The sections ``teacher`` and ``distill``: models, schedules and losses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mmedge.spec import Frozen


class Encoder(Frozen):
    """Widths of a built-in encoder's stages; ``depth`` is the number of layers a stage."""

    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field((16, 32, 48), min_length=1)
    depth: int = Field(1, ge=1)


class Model(Frozen):
    """The built-in fusion network, or a user's own by ``factory: module:factory`` (called with ``args``).

    ``inputs`` maps modalities to the names of the factory's ``forward`` parameters. ``weights``: safetensors, or a
    checkpoint that ``torch.load(weights_only=True)`` reads.
    """

    factory: str | None = None
    args: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    weights: Path | None = None
    modalities: tuple[str, ...] | None = None
    encoders: dict[str, Encoder] = {}
    embedding: int = Field(64, ge=1)
    hidden: int = Field(64, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)

    @field_validator("factory")
    @classmethod
    def _module_and_attribute(cls, factory: str | None) -> str | None:
        if factory is not None and (factory.count(":") != 1 or not all(factory.split(":"))):
            raise ValueError(f"must be 'module:factory', not {factory!r}")
        return factory

    @field_validator("modalities")
    @classmethod
    def _some_and_each_once(cls, modalities: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if modalities is not None and (not modalities or len(set(modalities)) < len(modalities)):
            raise ValueError("must name at least one modality, each once; leave it out for all of them")
        return modalities


class Augment(Frozen):
    """Random changes of one modality's tensor. Shifts are along the last (``shift``) and the last but one axis."""

    shift: int = Field(0, ge=0)
    shift_rows: int = Field(0, ge=0)
    mask: int = Field(0, ge=0)
    mask_rows: int = Field(0, ge=0)
    noise: float = Field(0.0, ge=0)


class Train(Frozen):
    """The schedule of the one training loop: AdamW, warm-up and cosine, best checkpoint on validation.

    ``views`` is the number of augmented views a sample has; epoch e sees view e modulo ``views``. ``max_steps`` ends an
    epoch early. For classes of unequal
    size: ``class_weights: balanced`` weighs a label by its class's rarity, ``sampling: balanced`` draws every class as
    often, ``focal_gamma`` above 0 dwells on what is still wrong (focal loss).
    """

    epochs: int = Field(20, ge=1)
    max_steps: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    gradient_clip: float = Field(5.0, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    modality_dropout: float = Field(0.5, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    focal_gamma: float = Field(0.0, ge=0)
    sampling: Literal["uniform", "balanced"] = "uniform"
    augment: dict[str, Augment] = {}
    views: int = Field(1, ge=1)


class Teacher(Frozen):
    """The teacher's model and schedule. With ``model.weights`` and ``train: null`` it is taken as it is.

    ``onnx``: a model file of any origin instead, run by ONNX Runtime; ``model.inputs`` maps modalities to its inputs.
    """

    model: Model = Model()
    onnx: Path | None = None
    train: Train | None = Train()

    @model_validator(mode="after")
    def _learnt_somewhere(self) -> Teacher:
        if self.train is None and self.onnx is None and self.model.weights is None:
            raise ValueError("with 'train: null', name model.weights or onnx: the teacher has learnt nothing else")
        return self


class Hint(Frozen):
    """Two layers whose outputs are matched, named as in ``named_modules()``, and how.

    ``features`` (FitNets, through a learned projection), ``attention`` (where a map is active), ``relations`` (distances
    and angles in a batch), ``contrastive`` (InfoNCE in a shared space). The teacher's layer may be of a modality that the
    student does not get: the student then learns to imagine its features.
    """

    teacher: str = "fusion"
    student: str = "fusion"
    kind: Literal["features", "attention", "relations", "contrastive"] = "features"
    weight: float = Field(1.0, gt=0)


class Loss(Frozen):
    """Weights of the distillation loss; ``temperature`` softens the logits.

    ``kind``: ``kd`` (Hinton), ``dkd`` (decoupled) or ``dist`` (correlation). ``schedule``: ``constant``, or ``linear``
    where the teacher's part falls to nothing at the last epoch and labels have the last word.
    """

    labels: float = Field(1.0, ge=0)
    logits: float = Field(1.0, ge=0)
    kind: Literal["kd", "dkd", "dist"] = "kd"
    temperature: float = Field(2.0, gt=0)
    hints: tuple[Hint, ...] = ()
    schedule: Literal["constant", "linear"] = "constant"

    @model_validator(mode="after")
    def _something(self) -> Loss:
        if self.labels + self.logits == 0 and not self.hints:
            raise ValueError("every weight is 0: nothing would be learned")
        return self


class Controls(Frozen):
    """The same student without a teacher on the same schedule, over ``seeds`` seeds: is the teacher worth it?"""

    no_distillation: bool = True
    seeds: int = Field(3, ge=1)


class Distill(Frozen):
    """The student, its loss and schedule. ``labels``: how many training labels the student's stages may see."""

    model: Model = Model()
    labels: int | Literal["all", "none"] = "all"
    loss: Loss = Loss()
    train: Train = Train()
    controls: Controls = Controls()

    @model_validator(mode="after")
    def _something_teaches(self) -> Distill:
        if self.labels == "none" and not self.loss.logits and not self.loss.hints:
            raise ValueError("with 'labels: none', loss.logits or loss.hints must teach")
        return self

    @field_validator("labels")
    @classmethod
    def _positive(cls, labels: int | str) -> int | str:
        if isinstance(labels, int) and labels < 1:
            raise ValueError("must be 'all', 'none' or at least 1")
        return labels
