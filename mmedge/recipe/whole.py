"""A whole recipe: frozen, typed, every default written in its section's file; what the sections say of each other must agree."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import Field, JsonValue, field_validator, model_validator

from mmedge import gate, tasks
from mmedge.contract import subsets
from mmedge.errors import brief, did_you_mean
from mmedge.frozen import Frozen
from mmedge.recipe.augment import faults_of
from mmedge.recipe.compression import Prefer, Prune, Quantize, sparsity_faults
from mmedge.recipe.data import Data
from mmedge.recipe.export import Export, Measure, Report
from mmedge.recipe.gates import Gates, Limits, NoneOrGates, default_limits, guarded
from mmedge.recipe.model import Model
from mmedge.recipe.pretraining import pretraining_faults
from mmedge.recipe.privacy import privacy_faults
from mmedge.recipe.section import StageSection
from mmedge.recipe.train import Train
from mmedge.recipe.training import Distill, MainTeacher, TeacherConfig
from mmedge.tasks import retrieval
from mmedge.tasks.head import Target
from mmedge.tracking import Name as Tracker

# What names a folder on every system, and means nothing to a shell or a terminal.
PLAIN_NAME = re.compile(r"\w(?:[\w .-]*\w)?")


class Recipe(Frozen):
    """A whole recipe. A stage whose section is missing is not run."""

    schema_: Literal[1] = Field(1, alias="schema", description="Version of the recipe's format.")
    name: str = Field(
        min_length=1,
        max_length=100,
        description="Plain words that name the run; without --out it is written to runs/NAME.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Of splits, weights, batches and augmentation.")
    data: Data = Field(description="Where samples come from.")
    teacher: MainTeacher = Field(MainTeacher(), description="The network that teaches.")
    distill: Distill | None = Field(None, description="The small network that ships, and how it is taught.")
    prune: Prune | None = Field(None, description="What is cut out of it.")
    quantize: Quantize | None = Field(None, description="The precisions that are tried.")
    export: Export = Field(Export(), description="The engines that are built.")
    measure: Measure = Field(Measure(), description="How latency and intervals are taken.")
    report: Report = Field(Report(), description="What the report may show of the data.")
    prefer: Prefer = Field(
        "latency",
        description="What is best among candidates inside the accuracy budget, in prune, quantize and the choice of an"
        " engine's precision. latency: the fastest, measured here, or on the backend. size: the smallest file; a pruned"
        " network is taken though it is no faster. energy: what takes the fewest millijoules a call"
        " by the machine's counter (RAPL, INA3221, NVML); where it has none that can be read, and between cuts in prune, one"
        " thread's time stands for it, which the report says; of two that take as much the smaller. accuracy: the highest quality on validation, of"
        " equals the fastest; of several cuts the one that loses least.",
    )
    track: tuple[Tracker, ...] = Field(
        (),
        description="What follows the run beside its report: tensorboard (curves, in OUT/tensorboard), mlflow, wandb"
        " (parameters, curves, every stage's figures, report and bundle; where to is for MLFLOW_TRACKING_URI, WANDB_MODE and"
        " their kin). One that fails is left out with a warning, and the run goes on.",
    )
    gates: NoneOrGates = Field(
        Gates(), description="What must hold on the test split, and how it is judged; 'none' asks nothing of a run."
    )

    @field_validator("name")
    @classmethod
    def _plain_words(cls, name: str) -> str:
        if not PLAIN_NAME.fullmatch(name):
            raise ValueError(
                f"must be plain words, since it names a folder: letters, digits, blanks, - _ . not {brief(name)}"
            )
        return name

    @model_validator(mode="before")
    @classmethod
    def _student_of_its_teachers_layers(cls, given: Any) -> Any:
        distill = given.get("distill") if isinstance(given, dict) else None
        if not isinstance(distill, dict) or not distill.get("from_teacher"):
            return given
        teacher = given.get("teacher")
        model = teacher.get("model", {}) if isinstance(teacher, dict) else {}
        own = {**(model if isinstance(model, dict) else {}), "layers": distill["from_teacher"], "ensemble": 1}
        return {**given, "distill": {"model": own, **distill}}

    @model_validator(mode="after")
    def _names_agree(self) -> Recipe:
        faults = [
            *self._modality_faults(),
            *self._teacher_faults(),
            *self._task_faults(),
            *self._gate_faults(),
            *sparsity_faults(self.prune, self.export.targets, skips_zeros=self.export.skips_zeros),
            *privacy_faults(self),
            *pretraining_faults(self),
        ]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _modality_faults(self) -> list[str]:
        known = self.data.modalities
        named: list[tuple[str, str]] = []
        models = {where: given.model for where, given in self._givens()}
        models |= {stage: section.model for stage, section in self.sections.items() if hasattr(section, "model")}
        for stage, model in models.items():
            named += [(f"{stage}.model.modalities", name) for name in model.modalities or ()]
            named += [(f"{stage}.model.encoders", name) for name in model.encoders]
            named += [(f"{stage}.model.inputs", name) for name in model.inputs]
            named += [(f"{stage}.model.hallucinate", name) for name in model.hallucinate]
        for where, given in self._givens():
            named += [(f"{where}.preprocessing", name) for name in given.preprocessing]
        for stage, train in self._schedules():
            named += [(f"{stage}.train.augment", name) for name in (train.augment if train else ())]
        faults = [
            f"{where}: the data has no modality {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}"
            for where, name in named
            if name not in known
        ]
        for stage, train in self._schedules():
            faults += [f"{stage}.train.augment.{what}" for what in faults_of(train.augment if train else {}, known)]
            if train and train.mix:
                faults += [f"{stage}.train.mix: {why}" for why in self._not_mixed(stage)]
        return faults

    def _not_mixed(self, stage: str) -> list[str]:
        """Why samples cannot be mixed with one another here."""
        whole = [name for name, spec in self.data.modalities.items() if not spec.blends]
        among = [target.task for target in self.data.heads.values() if tasks.of(target).AMONG]
        codes = [target.task for target in self.data.heads.values() if tasks.of(target).CODES]
        tables = self.teacher.outputs or any(more.outputs for more in (self.distill.teachers if self.distill else ()))
        return [
            *(f"{name!r} holds ids or points, of which there is no half" for name in whole),
            *(f"a {task} compares samples with one another, which would each be two" for task in among),
            *(f"a {task} learns ids, of which there is no half" for task in codes),
            *(
                ["a teacher's table of outputs has none for a mix"]
                if tables and self.sections[stage] is not self.teacher
                else []
            ),
        ]

    def _task_faults(self) -> list[str]:
        """Settings that no head's task has a use for, and heads that do not exist."""
        heads = self.data.heads
        named = ", ".join(sorted({target.task for target in heads.values()}))
        faults = []
        for loss in self.distill.losses if self.distill else ():
            if loss.kind != "kd" and not any(tasks.of(target).EXCLUSIVE for target in heads.values()):
                faults.append(
                    f"distill.loss.kind: {loss.kind!r} compares classes that exclude each other; for {named} use 'kd'"
                )
        if any(tasks.of(target).AMONG for target in heads.values()):
            faults += self._tower_faults()
        else:
            faults += [
                f"export.{key}: is for towers, which a retrieval has, and the task is {named}"
                for key in ("towers", "zero_shot")
                if getattr(self.export, key)
            ]
        if any(tasks.of(target).CODES for target in heads.values()):
            faults += self._writing_faults()
        else:
            for loss in self.distill.losses if self.distill else ():
                if loss.sequences != "none":
                    faults.append(f"distill.loss.sequences: are the teacher's texts, and the task is {named}")
        for stage, train in self._schedules():
            for key in train.by_class if train else ():
                if not any(tasks.of(target).BALANCED for target in heads.values()):
                    faults.append(f"{stage}.train.{key}: is for classification, and the task is {named}")
            weights = train.head_weights if train else {}
            if weights == "uncertainty" and len(heads) == 1:
                faults.append(f"{stage}.train.head_weights: there is one head, so that nothing is to be weighed")
            for name in weights if isinstance(weights, dict) else ():
                if name not in heads:
                    faults.append(
                        f"{stage}.train.head_weights: the data has no head {name!r}{did_you_mean(name, heads)}; it has {', '.join(heads)}"
                    )
        return faults

    def _tower_faults(self) -> list[str]:
        """What a task whose rows are judged among one another has no use for."""
        (head, *_) = self.data.heads.values()
        faults = self._shipped_faults(head)
        if self.distill and self.distill.controls.subset_students:
            faults.append("distill.controls.subset_students: a tower alone has nothing to find; leave it out")
        for stage, train in self._schedules():
            if train and train.privacy:
                faults.append(
                    f"{stage}.train.privacy: a pair is learnt against the batch's others, so no row has a gradient of its own"
                )
        if self.distill and self.distill.teachers:
            faults.append("distill.teachers: spaces of several teachers have no mean; name one teacher")
        models = {where: given.model for where, given in self._givens()}
        models |= {stage: section.model for stage, section in self.sections.items() if hasattr(section, "model")}
        for where, model in models.items():
            for tower, sees in head.towers.items():
                if model.modalities is not None and not set(sees) & set(model.modalities):
                    faults.append(
                        f"{where}.model.modalities: the tower {tower!r} would see nothing; keep one of {', '.join(sees)}"
                    )
            if model.hallucinate:
                faults.append(f"{where}.model.hallucinate: towers do not imagine; leave it out")
            if model.fusion != Model().fusion:
                faults.append(
                    f"{where}.model.fusion: what a tower sees of several modalities stands side by side; leave it out"
                )
        return faults

    def _shipped_faults(self, head: Target) -> list[str]:
        """Towers that cannot ship alone, and labels that no tower reads."""
        towers, alone = head.towers, self.export.towers
        faults = [
            f"export.towers: there is no tower {name!r}{did_you_mean(name, towers)}; there are {', '.join(towers)}"
            for name in alone
            if name not in towers
        ]
        if alone and set(alone) >= set(towers):
            faults.append("export.towers: names all; leave it out, and one engine has them")
        faults += [
            f"export.{key}: cuts the whole engine, which does not ship with 'towers'; leave one of them out"
            for key in ("per_subset", "split")
            if alone and getattr(self.export, key)
        ]
        if self.export.zero_shot and not retrieval.reading(
            towers, {name: spec.kind for name, spec in self.data.modalities.items()}
        ):
            faults.append("export.zero_shot: no tower reads texts alone, in which labels could be given")
        return faults

    def _writing_faults(self) -> list[str]:
        """What a task whose outputs are written token by token has no use for, or cannot have."""
        faults = []
        for where, given in self._givens():
            if given.model.factory or given.onnx or given.outputs:
                faults.append(
                    f"{where}: texts are written by the built-in network alone; leave out factory, onnx and outputs"
                )
        if self.distill and self.distill.model.factory:
            faults.append("distill.model.factory: texts are written by the built-in network alone; leave it out")
        if self.distill and self.distill.teachers:
            faults.append("distill.teachers: texts of several teachers have no mean; name one teacher")
        if self.distill and self.distill.controls.same_modality_teacher:
            faults.append("distill.controls.same_modality_teacher: is not there for texts yet; leave it out")
        for stage, train in self._schedules():
            if train and train.privacy:
                faults.append(f"{stage}.train.privacy: is not there for texts yet; leave it out")
        for key in ("per_subset", "split"):
            if getattr(self.export, key):
                faults.append(
                    f"export.{key}: a text is written by two engines already, and neither is cut further; leave it out"
                )
        return faults

    def _givens(self) -> list[tuple[str, TeacherConfig]]:
        """All teachers, each with its place in the recipe."""
        more = self.distill.teachers if self.distill else ()
        return [("teacher", self.teacher), *((f"distill.teachers.{n}", given) for n, given in enumerate(more))]

    def _teacher_faults(self) -> list[str]:
        faults = []
        teacher, distill = self.teacher, self.distill
        if distill and distill.from_teacher:
            own = teacher.model.model_copy(update={"layers": distill.from_teacher, "ensemble": 1})
            if distill.model != own:  # a resolved recipe has it written out
                faults.append(
                    "distill.model: is the teacher's, of the layers that distill.from_teacher names: leave out distill.model"
                )
        for key in ("outputs", "classes", "preprocessing"):
            if getattr(teacher, key) and self.distill is None:
                faults.append(f"teacher.{key}: such a teacher can only teach; add a section distill")
        if not teacher.export and self.distill is None:
            faults.append("teacher.export: a teacher that is not exported can only teach; add a section distill")
        heads = [tasks.of(target) for target in self.data.heads.values()]
        if not any(task.LABELS for task in heads):
            faults += [f"{where}.classes: a regression has none" for where, given in self._givens() if given.classes]
        elif len(heads) > 1:
            faults += [f"{where}.classes: are of one head" for where, given in self._givens() if given.classes]
        if self.distill and self.distill.combine == "confidence" and not all(task.CONFIDENCE for task in heads):
            faults.append("distill.combine: a regression's outputs tell no confidence; use average")
        return faults

    def _schedules(self) -> list[tuple[str, Train | None]]:
        return [(stage, getattr(section, "train", None)) for stage, section in self.sections.items()]

    def _gate_faults(self) -> list[str]:
        stages = self.stages
        fields = type(self).model_fields.items()
        kinds = [(name, kind) for name, field in fields for kind in (field.annotation, *get_args(field.annotation))]
        only = {own: kind.stage or name for name, kind in kinds for own in getattr(kind, "own_gates", ())}
        faults = [
            f"gates: the recipe has no stage {stage!r}{did_you_mean(stage, stages)}; it has {', '.join(stages)}"
            for stage in self.own_limits
            if stage not in stages
        ]
        for stage, limits in self.own_limits.items():
            faults += [
                f"gates.{stage}: unknown figure {name!r}{did_you_mean(name, gate.FIGURES)}"
                for name in limits
                if not gate.known(name)
            ]
            names = ["+".join(chosen) for chosen in subsets(tuple(self.data.modalities))]
            for name in limits:
                head, _ = gate.head_of(name)
                family, subset = gate.family(name), gate.subset_of(name)
                if head is not None and head not in self.data.targets:
                    has = ", ".join(self.data.targets) or "one head, whose figures have no name before them"
                    faults.append(
                        f"gates.{stage}: no head {head!r}{did_you_mean(head, self.data.targets)}; the data has {has}"
                    )
                if gate.known(name) and subset and subset not in names:
                    faults.append(
                        f"gates.{stage}: no subset of modalities {subset!r}{did_you_mean(subset, names)}; there are {', '.join(names)}"
                    )
                faults += self._label_gate_faults(stage, name, head)
                if only.get(family, stage) != stage:
                    faults.append(f"gates.{stage}: {name!r} is a figure of the stage {only[family]} alone")
        return faults

    def _label_gate_faults(self, stage: str, name: str, head: str | None) -> list[str]:
        """A figure that only labels have, or another task, asked of a task that has others."""
        target = self.data.heads.get(head) if head else next(iter(self.data.heads.values()))
        if target is not None and not tasks.row_by_row(target) and gate.family(name) == "above_baseline":
            return [
                f"gates.{stage}: {name!r} is against a linear model, which a {target.task} has none of; use above_majority"
            ]
        if gate.family(name) not in (*gate.OF_LABELS, gate.OTHERS, gate.SUBSET_OTHERS) or target is None:
            return []
        if head is None and len(self.data.heads) > 1:
            return [
                f"gates.{stage}: {name!r} is of one head: write heads.NAME.{name}; there are {', '.join(self.data.heads)}"
            ]
        task = tasks.of(target)
        of_labels = {"ece": task.CONFIDENCE, "worst_class_recall": task.LABELS and not task.SEVERAL}
        if other := gate.other_of(name):
            figure, _, part = other.partition(".")
            able = [of for of in task.FIGURES if of != task.METRIC or part]
            able += [of for of, there in of_labels.items() if there and gate.subset_of(name) and not part]
            has = ", ".join(f"{gate.OTHERS}.{of}" for of in able) or f"quality ({task.METRIC})"
            return [] if figure in able else [f"gates.{stage}: {name!r} is no figure of a {target.task}; it has {has}"]
        if of_labels.get(gate.family(name), True):
            return []
        able = [figure for figure, (_, code) in gate.FIGURES.items() if code == 3 and of_labels.get(figure, True)]
        return [f"gates.{stage}: {name!r} is no figure of a {target.task}; it has {', '.join(able)}"]

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """What follows the run, each once: of ``track``, and of a schedule's own older key."""
        older = [train.log for _, train in self._schedules() if train and train.log != "csv"]
        return tuple(dict.fromkeys((*self.track, *older)))

    @property
    def own_limits(self) -> Limits:
        """The gates' limits as the recipe gives them."""
        return self.gates.limits if isinstance(self.gates, Gates) else {}

    @property
    def judging(self) -> Gates:
        """How gates and budgets are judged, also where nothing is asked of the run."""
        return self.gates if isinstance(self.gates, Gates) else Gates()

    @property
    def limits(self) -> Limits:
        """{stage: {figure: limit}} that the run is judged by: the recipe's own, else the default ones; none by 'none'."""
        if not isinstance(self.gates, Gates):
            return {}
        engines = self.export.stages("export")
        if self.gates.limits:
            return guarded(self.gates.limits, engines, self.data.heads)
        teacher = self.teacher.model.modalities or tuple(self.data.modalities)
        ours = (self.distill.model.modalities if self.distill else None) or (
            tuple(self.data.modalities) if self.distill else teacher
        )
        beside = self.teacher.outputs is not None or not set(teacher) <= set(ours)
        against: Literal["teacher", "parent"] = "parent" if beside else "teacher"
        return default_limits(engines, self.data.heads, ours, against, labelled=self.learns_labels)

    @property
    def sections(self) -> dict[str, StageSection]:
        """The sections that make stages, by name."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: section for name, section in given.items() if isinstance(section, StageSection)}

    @property
    def stages(self) -> list[str]:
        """The names of the stages that a run has, in the order of the recipe's sections."""
        return [stage for name, section in self.sections.items() for stage in section.stages(name)]

    @property
    def learns_labels(self) -> bool:
        """Whether the training split needs a label. With ``distill.labels: none`` a teacher that is there already can do without."""
        return self.distill is None or self.distill.labels != "none"

    def resolved(self) -> dict[str, JsonValue]:
        """The recipe as plain JSON values, every default written out."""
        return self.model_dump(mode="json", by_alias=True)
