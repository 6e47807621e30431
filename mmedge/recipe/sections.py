"""The sections of a recipe: frozen, typed models, every default in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mmedge import gate
from mmedge.errors import did_you_mean
from mmedge.spec import Frozen, ModalitySpec, subsets

Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["onnxruntime-cpu", "openvino-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"]


class Fold(Frozen):
    """k-fold cross-validation: part ``index`` of ``k`` is the test split; validation is drawn from the rest."""

    k: int = Field(ge=2)
    index: int = Field(ge=0)

    @model_validator(mode="after")
    def _inside(self) -> Fold:
        if self.index >= self.k:
            raise ValueError(f"'index' counts from 0 and must be below 'k' ({self.k})")
        return self


class Redact(Frozen):
    """Identifying columns, dropped or hashed (HMAC-SHA256) before anything is written or reported.

    The key stands in the environment variable that ``key`` names, never in the recipe.
    """

    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    key: str = "MMEDGE_REDACT_KEY"


class Stream(Frozen):
    """A table with timestamps of its own, whose ``columns`` (all others where none are named) join the manifest's rows.

    Times are numbers (seconds) or ISO 8601; ``tolerance`` is in seconds. ``nearest`` and ``previous`` take one row,
    ``linear`` interpolates numbers between the rows around, ``window`` takes their mean over the tolerance on both sides.
    ``by``: a column that must be equal in both, a subject say. A row that nothing is near enough to gets empty cells.
    """

    file: Path
    time: str = "time"
    on: str = "time"
    by: str | None = None
    columns: tuple[str, ...] = ()
    method: Literal["nearest", "previous", "linear", "window"] = "nearest"
    tolerance: float = Field(gt=0)


class Data(Frozen):
    """Where samples come from: ``dataset`` (``avdigits`` or ``module:build``), or ``manifest`` (a table of paths and values).

    A manifest is CSV, TSV, JSONL or Parquet, a row a sample; an empty cell is a missing modality, or a missing label
    (such a sample of the training split takes part in distillation only). Splits come from the column ``split``, from
    ``fold``, or from ``ratios``: whole groups where ``group`` names a column, else stratified by the target; seeded.
    ``workers``: processes that decode; as many as there are cores, where it pays, when none are named.
    """

    dataset: str | None = None
    args: dict[str, Any] = {}
    manifest: Path | None = None
    recordings: Path | None = None
    modalities: dict[str, ModalitySpec]
    task: Literal["classification", "regression"] = "classification"
    target: str = "label"
    id: str | None = None
    group: str | None = None
    split: str | None = None
    ratios: dict[Literal["train", "validation", "test"], float] = {"train": 0.7, "validation": 0.15, "test": 0.15}
    fold: Fold | None = None
    align: dict[str, Stream] = {}
    redact: Redact | None = None
    workers: int | None = Field(None, ge=1)

    @field_validator("modalities")
    @classmethod
    def _named_well(cls, modalities: dict[str, ModalitySpec]) -> dict[str, ModalitySpec]:
        if not modalities:
            raise ValueError("names no modality")
        for name in modalities:
            if not name.isidentifier() or name == "present":
                raise ValueError(f"a modality's name must be a Python identifier other than 'present', not {name!r}")
        return modalities

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.dataset is None) == (self.manifest is None):
            raise ValueError("name either 'dataset' or 'manifest'")
        if self.dataset is not None and self.dataset != "avdigits" and ":" not in self.dataset:
            raise ValueError(
                f"'dataset' is 'avdigits' or 'module:build', not {self.dataset!r}{did_you_mean(self.dataset, ['avdigits'])}"
            )
        if self.recordings is not None and self.dataset != "avdigits":
            raise ValueError("'recordings' belongs to the dataset 'avdigits'")
        for key in ("fold", "align", "redact", "split"):
            if getattr(self, key) and self.manifest is None:
                raise ValueError(f"{key!r} belongs to a 'manifest'; a dataset gives its own splits and columns")
        if self.fold and self.split:
            raise ValueError("name either 'split' or 'fold'")
        return self

    @model_validator(mode="after")
    def _columns_agree(self) -> Data:
        read = {column for name, spec in self.modalities.items() for column in spec.columns_read or (name,)}
        if self.target in read:
            raise ValueError(f"the target {self.target!r} is also the input of a modality")
        taken = {"id": self.id, "group": self.group} if self.manifest else {}
        for name, column in taken.items():
            if name in read and column != name:
                raise ValueError(f"a column named {name!r} is kept for data.{name}: rename it in the manifest")
        files = {(spec.columns_read or (name,))[0] for name, spec in self.modalities.items() if spec.reads_file}
        for column in self.redact.hash if self.redact else ():
            if column in files:
                raise ValueError(f"redact.hash: the column {column!r} holds paths; hash the files' names themselves")
        for column in self.redact.drop if self.redact else ():
            if column in (read | {self.target, self.id, self.group, self.split}):
                raise ValueError(f"redact.drop: the column {column!r} is used by this recipe")
        if (
            set(self.ratios) != {"train", "validation", "test"}
            or abs(sum(self.ratios.values()) - 1) > 1e-6
            or min(self.ratios.values()) <= 0
        ):
            raise ValueError("'ratios' must give train, validation and test a share above 0, and add up to 1")
        return self


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

    ``views`` is the number of augmented views a sample has; epoch e sees view e modulo ``views``. For classes of unequal
    size: ``class_weights: balanced`` weighs a label by its class's rarity, ``sampling: balanced`` draws every class as
    often, ``focal_gamma`` above 0 dwells on what is still wrong (focal loss).
    """

    epochs: int = Field(20, ge=1)
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


class Prune(Frozen):
    """Structured pruning. ``macs`` is the share of the parent's multiply-accumulates to keep, at most.

    ``round_to``: channels that are left are a multiple of it. Kernels work on blocks of 8 or 16 channels, on CPUs and GPUs:
    13 channels cost what 16 do, and more.
    """

    macs: float = Field(0.65, gt=0, lt=1)
    round_to: int = Field(8, ge=1)
    ignore: tuple[str, ...] = ()
    train: Train = Train(epochs=10, learning_rate=1e-3)


class Quantize(Frozen):
    """Candidate precisions; kept are those that lose no more than ``max_drop`` against FP32 on validation.

    ``max_subset_drop`` is the same for every subset of modalities; ``calibration`` the number of training samples.
    """

    candidates: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    max_drop: float = Field(0.01, ge=0)
    max_subset_drop: float = Field(0.02, ge=0)
    calibration: int = Field(300, ge=1)

    @field_validator("candidates")
    @classmethod
    def _with_fp32(cls, candidates: tuple[Precision, ...]) -> tuple[Precision, ...]:
        if "fp32" not in candidates or len(set(candidates)) != len(candidates):
            raise ValueError("must hold 'fp32', to compare with, and each precision once")
        return candidates


class TargetOptions(Frozen):
    """``precision``: taken instead of the fastest, or where the target cannot be run here.

    ``max_batch``: the largest batch of its profile, ``best_batch`` the one it is optimised for. ``workspace_mb``, ``level``
    (0 to 5), ``version_compatible``, ``hardware_compatible``: TensorRT's builder. ``required: false`` leaves the target
    out, with a note, where its package is not installed.
    """

    precision: Precision | None = None
    max_batch: int = Field(8, ge=1)
    best_batch: int = Field(1, ge=1)
    workspace_mb: int | None = Field(None, ge=1)
    level: int | None = Field(None, ge=0, le=5)
    version_compatible: bool = False
    hardware_compatible: bool = False
    required: bool = True

    @model_validator(mode="after")
    def _batches_in_order(self) -> TargetOptions:
        if self.best_batch > self.max_batch:
            raise ValueError(f"'best_batch' ({self.best_batch}) is above 'max_batch' ({self.max_batch})")
        return self


class Export(Frozen):
    """The engines to build, by target.

    ``per_subset``: an engine for every smaller set of modalities, without the absent encoders, where it is faster.
    ``split``: encoders and fusion head apart too, for modalities that come at different rates.
    """

    targets: dict[Target, TargetOptions] = {"onnxruntime-cpu": TargetOptions()}
    per_subset: bool = False
    split: bool = False

    @field_validator("targets")
    @classmethod
    def _with_the_graph(cls, targets: dict[Target, TargetOptions]) -> dict[Target, TargetOptions]:
        if "onnxruntime-cpu" not in targets:
            raise ValueError("must hold 'onnxruntime-cpu': its graph is the bundle's model.onnx")
        return targets


class Measure(Frozen):
    """How latency is taken: one thread and spinning off are the honest default."""

    batch: int = Field(1, ge=1)
    threads: int = Field(1, ge=1)
    runs: int = Field(1000, ge=20)
    warmup: int = Field(50, ge=1)
    bootstrap: int = Field(2000, ge=100)


class Recipe(Frozen):
    """A whole recipe. A stage whose section is missing is not run."""

    schema_: Literal[1] = Field(1, alias="schema")
    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0, lt=2**31)
    data: Data
    teacher: Teacher = Teacher()
    distill: Distill | None = None
    prune: Prune | None = None
    quantize: Quantize | None = None
    export: Export = Export()
    measure: Measure = Measure()
    gates: dict[str, dict[str, float]] = {}

    @model_validator(mode="after")
    def _names_agree(self) -> Recipe:
        faults = [*self._modality_faults(), *self._gate_faults()]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _modality_faults(self) -> list[str]:
        known = self.data.modalities
        named: list[tuple[str, str]] = []
        for stage, model in (("teacher", self.teacher.model), ("distill", self.distill and self.distill.model)):
            if model:
                named += [(f"{stage}.model.modalities", name) for name in model.modalities or ()]
                named += [(f"{stage}.model.encoders", name) for name in model.encoders]
                named += [(f"{stage}.model.inputs", name) for name in model.inputs]
        for stage, train in self._schedules():
            named += [(f"{stage}.train.augment", name) for name in (train.augment if train else ())]
        faults = [
            f"{where}: the data has no modality {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}"
            for where, name in named
            if name not in known
        ]
        for stage, train in self._schedules():
            for name, augment in (train.augment if train else {}).items():
                if name in known and known[name].kind == "text" and augment != Augment(mask=augment.mask):
                    faults.append(f"{stage}.train.augment.{name}: of a text, only 'mask' can be changed")
        return faults

    def _schedules(self) -> list[tuple[str, Train | None]]:
        return [
            ("teacher", self.teacher.train),
            ("distill", self.distill.train if self.distill else None),
            ("prune", self.prune.train if self.prune else None),
        ]

    def _gate_faults(self) -> list[str]:
        stages = self.stages
        faults = [
            f"gates: the recipe has no stage {stage!r}{did_you_mean(stage, stages)}; it has {', '.join(stages)}"
            for stage in self.gates
            if stage not in stages
        ]
        for stage, limits in self.gates.items():
            faults += [
                f"gates.{stage}: unknown figure {name!r}{did_you_mean(name, gate.FIGURES)}"
                for name in limits
                if not gate.known(name)
            ]
            names = ["+".join(chosen) for chosen in subsets(tuple(self.data.modalities))]
            for name in limits:
                family, _, subset = name.partition(".")
                if gate.known(name) and subset and subset not in names:
                    faults.append(
                        f"gates.{stage}: no subset of modalities {subset!r}{did_you_mean(subset, names)}; there are {', '.join(names)}"
                    )
                if family in ("gain", "gain_ci95_low") and stage != "distill":
                    faults.append(f"gates.{stage}: {name!r} is a figure of the stage distill alone")
        return faults

    @property
    def stages(self) -> list[str]:
        """The stages that a run has, in order."""
        optional = [name for name in ("distill", "prune", "quantize") if getattr(self, name) is not None]
        return ["teacher", *optional, *(f"export-{target}" for target in self.export.targets)]

    def resolved(self) -> dict[str, Any]:
        """The recipe as plain JSON values, every default written out."""
        return self.model_dump(mode="json", by_alias=True)
