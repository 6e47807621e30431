"""The section ``data``: where samples come from, and how they are split, joined and redacted."""

from __future__ import annotations

from keyword import iskeyword
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mmedge import tasks
from mmedge.errors import brief, did_you_mean
from mmedge.frozen import Frozen
from mmedge.spec import ModalitySpec
from mmedge.tasks.head import Label, Target, TaskName, Texts

# Names that a modality cannot have: those of a network's other inputs, outputs and branches, of options of ``predict``,
_OWN = (
    "present logits fusion head imagine encoders inner inputs outputs target out threads json debug help "
    "require_signature self"
)
# and the attributes of torch's ModuleDict, which holds the encoders by name.
_OF_TORCH = (
    "T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double "
    "dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu "
    "items keys load_state_dict modules mtia named_buffers named_children named_modules named_parameters "
    "parameters pop register_backward_hook register_buffer register_forward_hook register_forward_pre_hook "
    "register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook "
    "register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook "
    "register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to "
    "to_empty train training type update values xpu zero_grad"
)
# Keys of the one target that each of several heads has for itself.
_OF_TARGET = ("order", "classes", "separator", "shape", "lengths", "log_mel", "distance", "text")
RESERVED = frozenset(f"{_OWN} {_OF_TORCH}".split())


class Fold(Frozen):
    """k-fold cross-validation: one part is the test split; validation is drawn from the rest."""

    k: int = Field(ge=2, le=10_000, description="Equal parts that the labelled rows are cut into.")
    index: int = Field(ge=0, description="The part that tests, from 0.")

    @model_validator(mode="after")
    def _inside(self) -> Fold:
        if self.index >= self.k:
            raise ValueError(f"'index' counts from 0 and must be below 'k' ({self.k})")
        return self


class Redact(Frozen):
    """Identifying columns, dropped or hashed (HMAC-SHA256) before anything is written or reported."""

    drop: tuple[str, ...] = Field((), description="Columns that are left out.")
    hash: tuple[str, ...] = Field((), description="Columns whose cells are hashed.")
    key: str = Field(
        "MMEDGE_REDACT_KEY", description="The environment variable that holds the key, which is never in the recipe."
    )

    @model_validator(mode="after")
    def _each_column_once(self) -> Redact:
        if len(set(self.drop + self.hash)) < len(self.drop) + len(self.hash):
            raise ValueError("'drop' and 'hash' name a column twice")
        return self


class TimedTable(Frozen):
    """A table with timestamps of its own that is joined to the manifest's rows; a row that nothing is near gets empty cells."""

    file: Path = Field(description="The table: CSV, TSV, JSONL or Parquet.")
    time: str = Field("time", description="Its column of times: numbers (seconds) or ISO 8601.")
    on: str = Field("time", description="The manifest's column of times.")
    by: str | None = Field(None, description="A column that must be equal in both, a subject say.")
    columns: tuple[str, ...] = Field((), description="Its columns that join; all others where none are named.")
    method: Literal["nearest", "previous", "linear", "window"] = Field(
        "nearest",
        description="nearest and previous take one row; linear interpolates numbers between the rows around; window takes"
        " their mean over the tolerance on both sides.",
    )
    tolerance: float = Field(gt=0, description="Seconds that a row may be away.")

    @model_validator(mode="after")
    def _each_column_once(self) -> TimedTable:
        if len(set(self.columns)) < len(self.columns) or {self.time, self.by} & set(self.columns):
            raise ValueError("'columns' names a column twice, or one that joins by 'time' or 'by'")
        return self


class Data(Frozen):
    """Where samples come from, and how they are split, joined and redacted: either ``manifest`` or ``dataset``."""

    dataset: str | None = Field(
        None, description="avdigits, or a dataset of your own as module:build, called as build(split, **args)."
    )
    args: dict[str, Any] = Field({}, description="Keyword arguments of that function.")
    manifest: Path | None = Field(
        None,
        description="A CSV, TSV, JSONL or Parquet table of paths and values, a row a sample; or tar shards as WebDataset writes"
        " them: a .tar, a folder of some, or a pattern (shards-{000..012}.tar, train-*.tar), where a column is an ending of"
        " members (jpg, cls) or a key of their .json. An empty cell is a missing"
        " modality, or a missing label: such a sample of the training split takes part in distillation only.",
    )
    recordings: Path | None = Field(None, description="Of avdigits: the folder of recordings.")
    modalities: dict[str, ModalitySpec] = Field(description="Name -> kind and preprocessing of each input.")
    task: TaskName = Field(
        "classification",
        description="What the target means. multilabel: a sample has any number of labels, a list in its cell (JSONL,"
        " Parquet) or names with separator between them (the separator alone: none of them; an empty cell: unlabelled)."
        " ordinal: one of several grades that stand in an order. retrieval: which go together, a row being a pair; no label"
        " is needed, and rows of one group are no wrong answers to each other. frames: an array a sample, [frames, ...], the"
        " path of a .npy file or a list of lists. generation: a text that is written.",
    )
    target: str | tuple[str, ...] | None = Field(
        "label",
        description="The column to predict; of a regression several, each a value, or one of lists. Of retrieval it is null, so that each row is a thing of its own, or a column"
        " whose equal cells are of one thing: right items for each other.",
    )
    towers: dict[str, tuple[str, ...]] = Field(
        {}, description="Of retrieval: tower -> the modalities that it sees; each modality its own where none is named."
    )
    text: Texts = Field(Texts(), description="Of generation: how texts become tokens, and how they are written.")
    order: tuple[Label, ...] = Field(
        (), description="For ordinal: the grades, lowest first; of numbers their own order where none is given."
    )
    classes: tuple[Label, ...] = Field(
        (),
        description="All classes or labels, in the order of the output, where the data at hand may lack some: weights that"
        " know more of them. Left out: those of the training split, sorted.",
    )
    targets: dict[str, Target] = Field(
        {},
        description="Several heads instead of the one target: name -> its task and column. A row may lack some of them.",
    )
    separator: str = Field(";", min_length=1, max_length=3, description="What stands between the labels of one cell.")
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="For frames: an array's most frames, then a frame's shape; those of training where none is declared.",
    )
    lengths: bool | None = Field(
        None, description="For frames: whether arrays may be shorter than the shape; as training has it when null."
    )
    log_mel: bool = Field(
        False,
        description="For frames: that a frame is the natural logarithms of mel energies, judged by mel-cepstral distortion too.",
    )
    distance: Literal["l1", "mse"] = Field("l1", description="For frames: what training minimises between arrays.")
    label_columns: tuple[str, ...] = Field((), description="For multilabel: columns of 0 and 1, one a label, instead.")
    id: str | None = Field(None, description="The column that names a sample in errors and outputs.")
    group: str | None = Field(None, description="A column whose equal rows stay in one split: a speaker, a patient.")
    split: str | None = Field(None, description="A column that says train, validation or test.")
    ratios: dict[Literal["train", "validation", "test"], float] = Field(
        {"train": 0.7, "validation": 0.15, "test": 0.15},
        description="Shares of the splits where no column says them: whole groups where group is named, else stratified by"
        " the target; seeded.",
    )
    fold: Fold | None = Field(None, description="Cross-validation instead of ratios.")
    align: dict[str, TimedTable] = Field({}, description="Name -> a table with times that is joined to the rows.")
    redact: Redact | None = Field(None, description="Columns that identify people.")
    workers: int | None = Field(
        None, ge=1, le=1024, description="Processes that decode; as many as there are cores, where it pays, when null."
    )
    batch_workers: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Processes that prepare batches while a model trains, each on a core of its own; what is learnt does not"
        " depend on it. Null: none on a CPU, and beside a GPU up to 8, where samples are augmented or do not fit in memory.",
    )

    stream: bool = Field(
        False,
        description="Whether files are decoded when they are read, at each epoch anew, instead of once before training: nothing"
        " decoded lies on the disk and training begins at once, at the price of decoding, which batch_workers share. A"
        " change of a file whose name stays is not noticed. Statistics are fitted on 2,000 training samples, evenly spread.",
    )
    unreadable: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="With stream: share of the training samples read so far whose files may be unreadable. They are skipped,"
        " counted and named; beyond it training ends with an error. In the other splits none may be.",
    )

    @field_validator("modalities")
    @classmethod
    def _named_well(cls, modalities: dict[str, ModalitySpec]) -> dict[str, ModalitySpec]:
        if not modalities:
            raise ValueError("names no modality")
        for name in modalities:
            if not name.isidentifier() or iskeyword(name) or name.startswith("_"):
                raise ValueError(
                    f"a modality's name must be a Python identifier, no keyword and without a _ before it, not {brief(name)}"
                )
            if name in RESERVED:
                raise ValueError(f"a modality cannot be called {name!r}: the name is taken; call it {name}_input, say")
        return modalities

    @model_validator(mode="before")
    @classmethod
    def _pairs_need_no_label(cls, given: Any) -> Any:
        """A retrieval learns what stands in one row, unless a column says what is of one thing."""
        task = tasks.TASKS.get(str(given.get("task"))) if isinstance(given, dict) else None
        return {"target": None, **given} if task and task.AMONG else given

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
        if len(set(self.label_columns)) < len(self.label_columns):
            raise ValueError("'label_columns' names a column twice")
        if self.label_columns and (self.targets or self.manifest is None or len(self.label_columns) < 2):
            raise ValueError("'label_columns' are two or more columns of a 'manifest', for 'task: multilabel'")
        if self.label_columns and not tasks.TASKS[self.task].SEVERAL:
            raise ValueError(
                f"'label_columns' are the labels of 'task: multilabel'; of {self.task} a sample has one target"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_name_targets(self) -> Data:
        plain = {name: type(self).model_fields[name].default for name in ("task", "target", *_OF_TARGET)}
        if self.targets and any(getattr(self, name) != default for name, default in plain.items()):
            raise ValueError("with 'targets', each head has its own task, column, order, separator and shape")
        for head in self.targets:
            if not head.isidentifier() or head in ("present", *self.modalities):
                raise ValueError(
                    f"a head's name must be a Python identifier, and no modality's nor 'present': {head!r}"
                )
            if head in _OF_TORCH.split():
                raise ValueError(f"a head cannot be called {head!r}: the name is taken; call it {head}_head, say")
        parts = [column for columns in self.target_parts.values() for column in columns]
        if len(set(parts)) < len(parts):
            raise ValueError(
                "two heads of 'targets' read one column" if self.targets else "'target' names a column twice"
            )
        for head, target in self.heads.items():
            if isinstance(target.column, tuple) and (len(target.column) < 2 or not tasks.of(target).UNIT):
                raise ValueError(
                    f"the target of {head!r} is several columns, which a regression's are: name one, or two and more"
                    " with 'task: regression'"
                )
        for head, target in self.heads.items():
            if len(set(target.order)) < len(target.order) or len(target.order) == 1:
                raise ValueError(f"the 'order' of {head!r} must list two or more grades, each once")
            if len(set(target.classes)) < len(target.classes) or len(target.classes) == 1:
                raise ValueError(f"the 'classes' of {head!r} must list two or more, each once")
            task = tasks.TASKS[target.task]
            if not task.FILES and (target.shape or target.lengths is not None or target.log_mel):
                raise ValueError(f"'shape', 'lengths' and 'log_mel' are those of frames, and {head!r} is {target.task}")
            if target.text != Texts() and not task.CODES:
                raise ValueError(f"'text' is how a generation writes, and {head!r} is {target.task}")
            if target.classes and not (task.EXCLUSIVE or task.SEVERAL):
                raise ValueError(f"'classes' are those of classification and multilabel, and {head!r} is {target.task}")
        return self

    @model_validator(mode="after")
    def _towers_see_what_there_is(self) -> Data:
        among = [head for head, target in self.heads.items() if tasks.of(target).AMONG]
        if among and self.targets:
            raise ValueError(
                f"a retrieval is the only head of a recipe: write 'task: {self.targets[among[0]].task}' without 'targets'"
            )
        if not among:
            if self.towers:
                raise ValueError(
                    f"'towers' are those of a retrieval, and the task is {self.task}: write 'task: retrieval'"
                )
            if self.target is None and not self.targets:
                raise ValueError("'target' must name the column to predict")
            return self
        for key in ("classes", "order", "label_columns"):
            if getattr(self, key):
                raise ValueError(
                    f"{key!r} are labels, and a {self.task} has none: the rows are its pairs; leave them out"
                )
        towers = self.heads[among[0]].towers
        seen = [name for sees in towers.values() for name in sees]
        for tower in towers:
            if not tower.isidentifier() or tower in _OF_TORCH.split():
                raise ValueError(f"a tower's name must be a Python identifier that is not taken: {tower!r}")
        if strange := [name for name in seen if name not in self.modalities]:
            raise ValueError(
                f"'towers': there is no modality {strange[0]!r}{did_you_mean(strange[0], self.modalities)}"
            )
        if sorted(seen) != sorted(self.modalities) or not all(towers.values()) or len(towers) < 2:
            raise ValueError(
                f"'towers' must be two or more, and each modality in just one of them; the modalities are {', '.join(self.modalities)}"
            )
        return self

    @model_validator(mode="after")
    def _one_text(self) -> Data:
        writing = [head for head, target in self.heads.items() if tasks.of(target).CODES]
        if len(writing) > 1:
            raise ValueError(f"one head of a recipe can write texts, and {' and '.join(map(repr, writing))} would")
        return self

    @property
    def heads(self) -> dict[str, Target]:
        """The heads by name; the one of a single ``target`` is called as its task's output is."""
        if self.targets:
            return dict(self.targets)
        same = {name: getattr(self, name) for name in ("task", *_OF_TARGET, "towers")}
        if tasks.TASKS[self.task].AMONG and not self.towers:
            same["towers"] = {name: (name,) for name in self.modalities}
        return {tasks.TASKS[self.task].OUTPUT: Target(column=self.target, **same)}

    @property
    def target_columns(self) -> dict[str, str]:
        """{head: the column that it learns}, its own name where the recipe names none; without heads that need no column.

        Several columns are joined to one, as ``target_parts`` says, which has their names with a + between them.
        """
        return {head: "+".join(parts) for head, parts in self.target_parts.items()}

    @property
    def target_parts(self) -> dict[str, tuple[str, ...]]:
        """{head: the columns of the data that it learns}, most often one."""
        return {
            head: target.column if isinstance(target.column, tuple) else (target.column or head,)
            for head, target in self.heads.items()
            if self.targets or target.column
        }

    def columns_named(self) -> dict[str, str | None]:
        """{recipe key: the column that it names} of targets, ids, groups and splits."""
        named = {
            (f"data.targets.{head}" if self.targets else "data.target") + (f".{n}" if len(columns) > 1 else ""): column
            for head, columns in self.target_parts.items()
            for n, column in enumerate(columns)
        }
        return {
            **named,
            "data.id": self.id,
            "data.group": self.group,
            "data.split": self.split,
        }

    @model_validator(mode="after")
    def _columns_agree(self) -> Data:
        read = {column for name, spec in self.modalities.items() for column in spec.columns_read or (name,)}
        for label in set(self.label_columns) & read:
            raise ValueError(f"the label column {label!r} is also the input of a modality")
        targets = {column for columns in self.target_parts.values() for column in columns}
        for target in sorted(targets & read):
            raise ValueError(f"the target {target!r} is also the input of a modality")
        taken = {"id": self.id, "group": self.group} if self.manifest else {}
        for name, column in taken.items():
            if name in read and column != name:
                raise ValueError(f"a column named {name!r} is kept for data.{name}: rename it in the manifest")
        files = {(spec.columns_read or (name,))[0] for name, spec in self.modalities.items() if spec.reads_file}
        for column in self.redact.hash if self.redact else ():
            if column in files:
                raise ValueError(f"redact.hash: the column {column!r} holds paths; hash the files' names themselves")
        for column in self.redact.drop if self.redact else ():
            if column in read | targets | {self.id, self.group, self.split, *self.label_columns}:
                raise ValueError(f"redact.drop: the column {column!r} is used by this recipe")
        if (
            set(self.ratios) != {"train", "validation", "test"}
            or abs(sum(self.ratios.values()) - 1) > 1e-6
            or min(self.ratios.values()) <= 0
        ):
            raise ValueError("'ratios' must give train, validation and test a share above 0, and add up to 1")
        return self
