"""The sections ``teacher`` and ``distill``: models and losses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mmedge.frozen import Frozen
from mmedge.recipe.budget import Budget
from mmedge.recipe.model import Model
from mmedge.recipe.pretraining import Pretrain
from mmedge.recipe.section import StageSection
from mmedge.recipe.train import Train
from mmedge.spec import ModalitySpec
from mmedge.tasks.head import Label


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
    sharded: bool = Field(
        False,
        description="Whether each process of --devices holds a part of a network's weights alone while it teaches and, where it is"
        " trained here, of gradients and the optimizer's state too (FSDP): for one that does not fit one device. What it learns"
        " and gives is the same.",
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
        if self.sharded and (self.onnx or self.outputs):
            raise ValueError("'sharded' is of a network in PyTorch: what comes from 'onnx' or 'outputs' is not divided")
        if self.onnx and self.model.masks:
            raise ValueError("a 'mask' is a parameter of forward: an ONNX file is exported with the mask made inside")
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
    def _sharded_to_be_trained(self) -> MainTeacher:
        if not (self.sharded and self.trained_here and self.train):
            return self
        whys = {
            "'train.privacy': each sample has gradients of its own": self.train.privacy,
            "'train.compile'": self.train.compile,
            "'train.precision: fp16': take bf16": self.train.precision == "fp16",
            "'train.thaw'": self.train.thaw,
            "'train.lora': what is trained there fits a device": self.train.lora,
            "'pretrain', which is of one process": self.pretrain,
        }
        for what in (what for what, given in whys.items() if given):
            raise ValueError(f"'sharded' does not go with {what}")
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
