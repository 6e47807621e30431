"""The sections ``teacher`` and ``distill``: models, schedules and losses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mmedge.frozen import Frozen
from mmedge.recipe.augment import Augment, Mix
from mmedge.recipe.budget import Budget
from mmedge.recipe.model import Model
from mmedge.recipe.pretraining import Pretrain
from mmedge.recipe.privacy import Privacy
from mmedge.recipe.section import StageSection
from mmedge.recipe.transfer import Lora
from mmedge.spec import ModalitySpec
from mmedge.tasks.head import Label


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
    sampling: Literal["uniform", "balanced"] = Field("uniform", description="balanced: every class is drawn as often.")
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

    def _not_private(self) -> str | None:
        """The setting by which one sample's gradient would depend on another sample, or that private training lacks."""
        whys = {
            "'modality_dropout: every': a sample has several gradients there; give a share": self.modality_dropout
            == "every",
            "'sampling: balanced': how often a sample is drawn depends on the others' classes": self.sampling
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


class TeacherConfig(Frozen):
    """A teacher of any origin: the built-in network, a module of one's own with weights, or one file."""

    model: Model = Field(Model(), description="The network; of an ONNX file, which modalities it takes by which names.")
    onnx: Path | None = Field(None, description="A model file, run by ONNX Runtime.")
    outputs: Path | None = Field(
        None,
        description="A model's outputs, computed elsewhere, by sample id: a CSV, TSV, JSONL or Parquet table with the column"
        " id and one column a class (regression: one column), or an .npz with the arrays ids and logits or probabilities."
        " Samples that it lacks learn from their labels alone; all augmented views of a sample share its row.",
    )
    values: Literal["logits", "probabilities"] = Field("logits", description="What the table of outputs holds.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="Precision that a network computes in while it teaches; its weights stay. fp16 needs a GPU.",
    )
    classes: dict[Label, Label | None] = Field(
        {},
        description="The teacher's class -> class of the data, or null for none, where they differ; in the order of the"
        " model's outputs where it does not name them itself.",
    )
    preprocessing: dict[str, ModalitySpec] = Field(
        {},
        description="Modality -> the teacher's spec, where it is not that of data.modalities, which the student and so the"
        " bundle keep. Augmentation is drawn once for both; shifts and masks are scaled to the teacher's sizes.",
    )

    @property
    def files(self) -> list[Path]:
        """The files that the teacher comes from."""
        return [path for path in (self.model.weights, self.onnx, self.outputs) if path]

    @model_validator(mode="after")
    def _one_file(self) -> TeacherConfig:
        if self.onnx and self.outputs:
            raise ValueError("name either 'onnx' or 'outputs'")
        return self


class MainTeacher(StageSection, TeacherConfig):
    """The run's own teacher: trained here, or taken as it is from ``onnx``, ``outputs`` or ``model.weights``."""

    train: Train | None = Field(
        None,
        description="Its schedule. Left out, it is the default one where no file is named, else null: taken as it is. With"
        " model.weights too, training goes on from those weights.",
    )
    pretrain: Pretrain | None = Field(
        None, description="What the teacher's encoders learn without labels before 'train'; null for nothing."
    )
    export: bool = Field(
        True,
        description="Whether the teacher is exported to ONNX and measured there. False: it only teaches, and is measured in"
        " PyTorch, for a network that cannot be exported.",
    )

    @model_validator(mode="before")
    @classmethod
    def _trained_unless_it_comes_from_a_file(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "train" in given:
            return given
        model = given.get("model") or {}
        weights = model.get("weights") if isinstance(model, dict) else getattr(model, "weights", None)
        return given if weights or given.get("onnx") or given.get("outputs") else {**given, "train": {}}

    @model_validator(mode="after")
    def _pretrained_to_be_trained(self) -> MainTeacher:
        if self.pretrain and (not self.trained_here or self.model.factory or (self.train and self.train.privacy)):
            raise ValueError("'pretrain' needs a built-in network that is trained here, and not privately")
        return self

    @model_validator(mode="after")
    def _learnt_somewhere(self) -> MainTeacher:
        if self.train is None and not self.files:
            raise ValueError(
                "with 'train: null', name model.weights or onnx or outputs: the teacher has learnt nothing else"
            )
        if self.train is not None and self.train.privacy and self.model.ensemble > 1:
            raise ValueError("'train.privacy' is spent by one network: leave out model.ensemble")
        return self

    @property
    def trained_here(self) -> bool:
        return self.train is not None and not self.onnx and not self.outputs


class FurtherTeacher(TeacherConfig):
    """A teacher beside the run's own: one of ``artifact``, ``onnx``, ``outputs`` and ``model.weights``."""

    artifact: Path | None = Field(None, description="A folder that mmedge wrote.")
    weight: float = Field(1.0, gt=0, description="What it weighs against the run's own teacher, which has 1.")

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
    """Two layers whose outputs are matched, named as in ``named_modules()``."""

    teacher: str = Field(
        "fusion",
        description="The teacher's layer. It may be of a modality that the student does not get: the student then learns to"
        " imagine its features.",
    )
    student: str = Field("fusion", description="The student's layer.")
    kind: Literal["features", "attention", "relations", "contrastive"] = Field(
        "features",
        description="features: FitNets, through a learned projection; attention: where a map is active; relations:"
        " distances and angles in a batch; contrastive: InfoNCE in a shared space.",
    )
    weight: float = Field(1.0, gt=0, description="What the hint weighs in the loss.")
    schedule: Schedule | None = Field(None, description="Of this hint's weight; the loss's own where null.")


class Loss(Frozen):
    """What the distillation loss is made of."""

    labels: float = Field(1.0, ge=0, description="What the labels weigh.")
    logits: float = Field(1.0, ge=0, description="What the teacher's outputs weigh.")
    kind: Literal["kd", "dkd", "dist"] = Field(
        "kd",
        description="How outputs are compared: kd (Hinton; of a retrieval the likeness of each two items of a batch, which is"
        " affinity mimicking), dkd (decoupled) or dist (correlation).",
    )
    temperature: float = Field(2.0, gt=0, description="Softens the logits of both.")
    beta: float = Field(
        1.0, ge=0, description="Of dkd: what the classes that are not the sample's weigh against the one that is."
    )
    sequences: Literal["none", "unlabelled", "all"] = Field(
        "none",
        description="Of generation: the samples whose text is the teacher's own instead of the label (sequence-level"
        " distillation). unlabelled: those whose label the student is not shown; all: every one.",
    )
    beams: int = Field(
        5, ge=1, le=64, description="Beginnings that the teacher follows beside each other to write those."
    )
    hints: tuple[Hint, ...] = Field((), description="Pairs of layers whose outputs are matched.")
    schedule: Schedule = Field(
        "constant",
        description="Of the teacher's part. linear and cosine fall to nothing at the end, so that labels have the last"
        " word; rise begins at nothing.",
    )

    @model_validator(mode="after")
    def _something(self) -> Loss:
        if self.sequences != "none" and self.labels == 0:
            raise ValueError("'sequences' are learned as labels are: give 'labels' a weight")
        if self.labels + self.logits == 0 and not self.hints:
            raise ValueError("every weight is 0: nothing would be learned")
        if self.beta != 1 and self.kind != "dkd":
            raise ValueError("'beta' belongs to 'kind: dkd'")
        return self


class Controls(Frozen):
    """What the student is compared with, each on the same schedule."""

    no_distillation: bool = Field(
        True,
        description="The same student without a teacher; where it is better on validation, it is what ships, and the report"
        ' says "do not distil". Without this control nothing is decided.',
    )
    same_modality_teacher: bool = Field(
        False,
        description="Where the student takes other modalities than the teacher, a teacher of the student's own teaches it"
        " too: do the others help?",
    )
    subset_students: bool = Field(
        False,
        description="A student of the same size for each proper subset of modalities, trained for that subset alone.",
    )
    seeds: int = Field(3, ge=1, description="Seeds that each side is trained with.")


class Distill(StageSection):
    """The student, its loss, its schedule and its controls."""

    own_gates: ClassVar[tuple[str, ...]] = ("gain", "gain_ci95_low")
    never_misses: ClassVar[str] = (
        "every loss of 'candidates' is tried, and where no teacher helps the student without one ships; what must be gained is"
        " a gate (gates: {distill: {gain_ci95_low: 0}})"
    )

    model: Model = Field(Model(), description="The student's network.")
    budget: Budget | None = Field(
        None,
        description="What the student may cost: its encoders and widths are proposed, from a table that is measured.",
    )
    from_teacher: dict[str, tuple[Annotated[int, Field(ge=0)], ...]] = Field(
        {},
        description="The student is the teacher's network, of some encoders only these blocks (model.layers), and begins with"
        " the teacher's weights; so do its controls.",
    )
    labels: int | Literal["all", "none"] = Field(
        "all", description="Training labels that the student's stages may see."
    )
    loss: Loss = Field(Loss(), description="What the student learns from.")
    candidates: tuple[Loss, ...] | Literal["auto"] = Field(
        (),
        description="Losses that are tried beside loss, each in one seed; the best on validation teaches. auto: loss itself,"
        " stronger, weaker, and fading.",
    )
    teachers: tuple[FurtherTeacher, ...] = Field(
        (), description="Further teachers, whose probabilities are averaged with the run's own. Hints are the latter's."
    )
    combine: Literal["average", "confidence"] = Field(
        "average", description="Teachers are averaged by their weights, or also by how sure each is of the sample."
    )
    pretrain: Pretrain | None = Field(
        None, description="What the student's encoders learn without labels before 'train'; null for nothing."
    )
    train: Train = Field(Train(), description="The student's schedule.")
    cache: Literal["measured", "always", "never"] = Field(
        "measured",
        description="Whether the teacher's outputs are kept in files; measured: where that is faster than computing them at"
        " every step.",
    )
    cache_dtype: Literal["float32", "float16"] = Field("float32", description="Of the outputs that are kept.")
    cache_top: int | None = Field(
        None,
        ge=1,
        description="Of how many classes, the likeliest of each sample, logits are kept where a head has more: the others"
        " share what is left evenly. All where null.",
    )
    controls: Controls = Field(Controls(), description="What the student is compared with.")

    @model_validator(mode="after")
    def _proposed_or_named(self) -> Distill:
        named = {"factory", "encoders", "embedding", "hidden", "weights"} & self.model.model_fields_set
        if self.budget and named:
            raise ValueError(f"'budget' proposes the student's network: leave out model.{min(named)}")
        if self.model.ensemble > 1:
            raise ValueError("'model.ensemble' is a teacher's: what ships is one network")
        return self

    @model_validator(mode="after")
    def _pretrained_to_be_trained(self) -> Distill:
        if self.pretrain and (self.model.factory or self.train.privacy):
            raise ValueError("'pretrain' needs a built-in network that is trained here, and not privately")
        return self

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
