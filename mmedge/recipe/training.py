"""The sections ``teacher`` and ``distill``: models, schedules and losses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mmedge.spec import Frozen, ModalitySpec


class Encoder(Frozen):
    """Widths of a built-in encoder's stages; ``depth`` is the number of layers a stage."""

    widths: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field((16, 32, 48), min_length=1)
    depth: int = Field(1, ge=1, le=1000)


class Model(Frozen):
    """The built-in fusion network, or a user's own by ``factory: module:factory`` (called with ``args``).

    ``inputs`` maps modalities to the names of the factory's ``forward`` parameters. ``outputs`` names what ``forward``
    gives and the graph shall have, the answer first, which is called ``logits`` there; left out, it is every tensor
    with a row a sample, and the answer is the one called ``logits``, or the only one. What a tuple holds is
    ``output_0``, ``output_1``, ... ``weights``: safetensors, or a checkpoint that ``torch.load(weights_only=True)``
    reads. ``hallucinate``: modalities of the data that the network does not take and imagines: a branch of its own
    makes their features from those it has, taught by the teacher's encoder. A regression network of one's own that has
    no weights yet answers in standard units of the training targets.
    """

    factory: str | None = None
    args: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    outputs: tuple[str, ...] = ()
    weights: Path | None = None
    modalities: tuple[str, ...] | None = None
    hallucinate: tuple[str, ...] = ()
    encoders: dict[str, Encoder] = {}
    embedding: int = Field(64, ge=1, le=65_536)
    hidden: int = Field(64, ge=1, le=65_536)
    dropout: float = Field(0.1, ge=0, lt=1)

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

    ``modality_dropout``: the share of samples that lose a random part of their modalities; or ``every``: each sample is
    answered three times a step, with all it has, with a random part and with the rest, so that no modality lives off
    another (of two modalities, these are all the subsets). The built-in network runs its encoders once for the three; a
    network of one's own is run on all three.

    ``optimizer: sgd`` takes ``momentum`` and ``nesterov``, and wants a learning rate some ten times AdamW's.
    ``precision``: of the forward pass; ``bf16`` and ``fp16`` are mixed precision (weights, losses, validation and what
    is exported stay FP32), ``fp16`` needs a GPU. ``accumulate``: a batch is worked through in that many parts whose
    gradients add up to the batch's, for less memory on the same schedule; what compares the samples of a batch with one
    another (``relations``, ``contrastive``, ``dist``) compares those of a part, and so it does where several processes
    train. ``ema``: keep the running average of the weights with this decay (0.999, say) instead of the weights
    themselves. ``early_stopping``: end after that many epochs without a better one on validation. ``compile``: run the
    model through torch.compile, which needs a C++ compiler (a GPU: Triton). ``log: tensorboard`` writes event files
    into OUT/tensorboard beside the training.csv that every stage has.
    """

    epochs: int = Field(20, ge=1, le=1_000_000)
    max_steps: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=2, le=1_000_000)
    learning_rate: float = Field(2e-3, gt=0, le=100)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    gradient_clip: float = Field(5.0, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["every"] = 0.5
    class_weights: Literal["none", "balanced"] = "none"
    focal_gamma: float = Field(0.0, ge=0)
    sampling: Literal["uniform", "balanced"] = "uniform"
    augment: dict[str, Augment] = {}
    views: int = Field(1, ge=1, le=1_000_000)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = Field(1, ge=1)
    ema: float | None = Field(None, gt=0, lt=1)
    early_stopping: int | None = Field(None, ge=1)
    compile: bool = False
    log: Literal["csv", "tensorboard"] = "csv"

    @model_validator(mode="after")
    def _agrees(self) -> Train:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("'nesterov: true' needs 'optimizer: sgd' with a momentum")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"'accumulate: {self.accumulate}' is more parts than a batch has samples ({self.batch_size})"
            )
        return self


Class = Annotated[str, Field(coerce_numbers_to_str=True)]


class TeacherConfig(Frozen):
    """A teacher of any origin: ``model`` (the built-in network, or ``module:factory``, with ``weights``), or one file.

    ``onnx``: a model file, run by ONNX Runtime; ``model.inputs`` maps modalities to its inputs, and
    ``model.modalities`` names those that it takes. ``outputs``: what a model said elsewhere, by sample id: a CSV, TSV,
    JSONL or Parquet table with the column ``id`` and one column a class (regression: one column), or an .npz with the
    arrays ``ids`` and ``logits`` or ``probabilities``; ``values`` says which of them a table holds. Samples that it
    lacks learn from their labels alone; all augmented views of a sample get its one answer.

    ``classes``, where the teacher's are not the data's: {teacher's class: class of the data, or null for none}, in the
    order of the model's outputs where it does not name them itself. ``preprocessing``, where the teacher's is not that
    of ``data.modalities``: {modality: its spec}. The student, and so the bundle, keeps that of ``data.modalities``;
    augmentation is drawn once for both, and shifts and masks are scaled to the teacher's sizes.
    """

    model: Model = Model()
    onnx: Path | None = None
    outputs: Path | None = None
    values: Literal["logits", "probabilities"] = "logits"
    classes: dict[Class, Class | None] = {}
    preprocessing: dict[str, ModalitySpec] = {}

    @property
    def files(self) -> list[Path]:
        """The files that the teacher comes from."""
        return [path for path in (self.model.weights, self.onnx, self.outputs) if path]

    @model_validator(mode="after")
    def _one_file(self) -> TeacherConfig:
        if self.onnx and self.outputs:
            raise ValueError("name either 'onnx' or 'outputs'")
        return self


class MainTeacher(TeacherConfig):
    """The run's teacher: trained by ``train``'s schedule, or taken as it is: ``onnx``, ``outputs``, or ``model.weights``

    without ``train``. With both ``model.weights`` and ``train``, training goes on from those weights.
    """

    train: Train | None = None

    @model_validator(mode="before")
    @classmethod
    def _trained_unless_it_comes_from_a_file(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "train" in given:
            return given
        model = given.get("model") or {}
        weights = model.get("weights") if isinstance(model, dict) else getattr(model, "weights", None)
        return given if weights or given.get("onnx") or given.get("outputs") else {**given, "train": {}}

    @model_validator(mode="after")
    def _learnt_somewhere(self) -> MainTeacher:
        if self.train is None and not self.files:
            raise ValueError(
                "with 'train: null', name model.weights or onnx or outputs: the teacher has learnt nothing else"
            )
        return self

    @property
    def trained_here(self) -> bool:
        return self.train is not None and not self.onnx and not self.outputs


class FurtherTeacher(TeacherConfig):
    """A further teacher: one of ``artifact`` (a folder that mmedge wrote), ``onnx``, ``outputs`` and ``model.weights``.

    ``weight`` is against the run's own teacher, which has 1.
    """

    artifact: Path | None = None
    weight: float = Field(1.0, gt=0)

    @property
    def files(self) -> list[Path]:
        return [*super().files, *([self.artifact / "manifest.json"] if self.artifact else [])]

    @model_validator(mode="after")
    def _one_origin(self) -> FurtherTeacher:
        if len(self.files) != 1:
            raise ValueError("name one of 'artifact', 'onnx', 'outputs' and 'model.weights'")
        if self.artifact and (self.preprocessing or self.model != Model()):
            raise ValueError("an artifact holds its own model and preprocessing")
        return self


Schedule = Literal["constant", "linear", "rise", "cosine"]


class Hint(Frozen):
    """Two layers whose outputs are matched, named as in ``named_modules()``, and how.

    ``features`` (FitNets, through a learned projection), ``attention`` (where a map is active), ``relations``
    (distances and angles in a batch), ``contrastive`` (InfoNCE in a shared space). The teacher's layer may be of a
    modality that the student does not get: the student then learns to imagine its features. ``schedule``: of this
    hint's weight; the loss's own where none is given.
    """

    teacher: str = "fusion"
    student: str = "fusion"
    kind: Literal["features", "attention", "relations", "contrastive"] = "features"
    weight: float = Field(1.0, gt=0)
    schedule: Schedule | None = None


class Loss(Frozen):
    """Weights of the distillation loss; ``temperature`` softens the logits.

    ``kind``: ``kd`` (Hinton), ``dkd`` (decoupled) or ``dist`` (correlation). ``beta``, of ``dkd``: what the classes
    that are not the sample's weigh against the one that is. ``schedule``: of the teacher's part: ``constant``;
    ``linear`` and ``cosine``, which fall to nothing at the end, so that labels have the last word; ``rise``.
    """

    labels: float = Field(1.0, ge=0)
    logits: float = Field(1.0, ge=0)
    kind: Literal["kd", "dkd", "dist"] = "kd"
    temperature: float = Field(2.0, gt=0)
    beta: float = Field(1.0, ge=0)
    hints: tuple[Hint, ...] = ()
    schedule: Schedule = "constant"

    @model_validator(mode="after")
    def _something(self) -> Loss:
        if self.labels + self.logits == 0 and not self.hints:
            raise ValueError("every weight is 0: nothing would be learned")
        if self.beta != 1 and self.kind != "dkd":
            raise ValueError("'beta' belongs to 'kind: dkd'")
        return self


class Controls(Frozen):
    """What the student is compared with, each on the same schedule over ``seeds`` seeds.

    ``no_distillation``: the same student without a teacher; where it is better on validation, it is what ships, and the
    report says "do not distil". Without this control nothing is decided. ``same_modality_teacher``: where the student
    takes other modalities than the teacher, a teacher of the student's own teaches it too: do the others help?
    ``subset_students``: a student of the same size for each proper subset of modalities, trained for that subset alone.
    """

    no_distillation: bool = True
    same_modality_teacher: bool = False
    subset_students: bool = False
    seeds: int = Field(3, ge=1)


class Distill(Frozen):
    """The student, its loss and schedule. ``labels``: how many training labels the student's stages may see.

    ``teachers``: further ones beside the run's, whose probabilities are averaged with its own: by their weights
    (``combine: average``), or also by how sure each one is of the sample (``confidence``). Hints are the run's
    teacher's.

    ``cache``: whether the teacher's answers are kept in files; ``measured`` keeps them where that is faster than asking
    the teacher at every step. ``candidates``: losses that are tried beside ``loss``, each in one seed; the best on
    validation teaches. ``auto``: what ``loss`` says, stronger, weaker, and fading.
    """

    model: Model = Model()
    labels: int | Literal["all", "none"] = "all"
    loss: Loss = Loss()
    candidates: tuple[Loss, ...] | Literal["auto"] = ()
    teachers: tuple[FurtherTeacher, ...] = ()
    combine: Literal["average", "confidence"] = "average"
    train: Train = Train()
    cache: Literal["measured", "always", "never"] = "measured"
    controls: Controls = Controls()

    @model_validator(mode="after")
    def _something_teaches(self) -> Distill:
        if self.labels == "none" and not self.loss.logits and not self.loss.hints:
            raise ValueError("with 'labels: none', loss.logits or loss.hints must teach")
        return self

    @property
    def losses(self) -> list[Loss]:
        """The losses to choose from, ``loss`` first. What the model imagines has a hint in each, a teacher's encoder."""
        if self.candidates == "auto":
            of = self.loss
            stronger, weaker = (of.model_copy(update={"logits": of.logits * factor}) for factor in (4, 0.25))
            found = [of, stronger, weaker, of.model_copy(update={"schedule": "linear"})]
        else:
            found = [self.loss, *self.candidates]
        return [self._imagining(loss) for loss in found]

    def _imagining(self, loss: Loss) -> Loss:
        taught = {hint.student for hint in loss.hints}
        missing = [name for name in self.model.hallucinate if f"imagine.{name}" not in taught]
        hints = tuple(Hint(teacher=f"encoders.{name}", student=f"imagine.{name}") for name in missing)
        return loss.model_copy(update={"hints": (*loss.hints, *hints)})

    @field_validator("labels")
    @classmethod
    def _positive(cls, labels: int | str) -> int | str:
        if isinstance(labels, int) and labels < 1:
            raise ValueError("must be 'all', 'none' or at least 1")
        return labels
