"""What distillation and recovery after pruning share: the student's view of the labels, and its teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import JsonValue

from mmedge import artifact as artifacts
from mmedge import tasks
from mmedge.artifact import Artifact
from mmedge.contract import Contract
from mmedge.data.augment import resolved
from mmedge.data.outputs import OUTPUTS_FILE, StoredOutputs, read_outputs, stored_outputs
from mmedge.data.store.samples import Dataset, Samples
from mmedge.errors import UsageError
from mmedge.graph.adopt import adopt, check_width
from mmedge.measure.classes import JUDGED, check_order, class_map, spread_over
from mmedge.measure.quality import metric_of, rows_of, score
from mmedge.models.load import contract_of, refuse_probabilities
from mmedge.recipe import Augment, Distill, FurtherTeacher, Hint, Loss, TeacherConfig, Train
from mmedge.recipe.dependencies import code_state, file_state
from mmedge.spec import ModalitySpec
from mmedge.training.context import Context
from mmedge.training.loop import processes
from mmedge.training.teaching.caching import Demand
from mmedge.training.teaching.combined import Combined
from mmedge.training.teaching.kept import Form
from mmedge.training.teaching.sequences import with_sequences
from mmedge.training.teaching.sources import (
    GraphSource,
    Inference,
    MappedSource,
    ModuleSource,
    OutputsSource,
    Source,
    TrainingViews,
    no_hints,
)
from mmedge.training.teaching.teachers import Teacher


def teaching_of(parent: Artifact, context: Context) -> tuple[Distill, bool]:
    """How the student in ``parent`` was taught, and so goes on to be.

    Given are the section, with the loss that distillation settled on, and whether the run's teacher teaches it. A student that does better without one has no further ones either.
    """
    teaching, (helped, loss) = context.recipe.distill or Distill(), handed_on(parent)
    if loss is not None:
        teaching = teaching.model_copy(update={"loss": Loss.model_validate(loss)})
    if not helped:
        teaching = teaching.model_copy(update={"teachers": ()})
    return teaching, helped and context.teacher is not None


def handed_on(parent: Artifact) -> tuple[bool, dict[str, JsonValue] | None]:
    """(whether a teacher taught the student in ``parent``, the loss it settled on): what artifacts made of it keep."""
    taught = parent.meta.get("taught", parent.meta.get("decision", {}).get("kept") != "control")
    return taught, parent.meta.get("loss")


def taught_samples(config: Distill, context: Context, contract: Contract) -> Samples:
    """The training split as the student may see it: its own modalities, only ``distill.labels`` of the labels, and the
    teacher's texts as ``loss.sequences`` says."""
    return with_sequences(shown_samples(config, context, contract), config.loss, context)


def shown_samples(config: Distill, context: Context, contract: Contract) -> Samples:
    """The same without anything that is the teacher's."""
    train = context.dataset.train.only(tuple(contract.modalities))
    if config.labels == "all":
        return train
    return train.with_labels(0 if config.labels == "none" else config.labels, context.recipe.seed)


def teacher_for(config: Distill, context: Context, train: Train, fits: int = 1) -> Teacher:
    """The run's teacher, or all teachers together, on the training split under ``train``'s augmentation.

    ``fits``: the trainings that it teaches in.
    """
    if context.teacher is None:
        raise UsageError("there is no teacher to learn from", todo="run mmedge train first, or name one with --from")
    return teacher_from(_together(config, context, train), config, context, train, fits)


def teacher_from(source: Source, config: Distill, context: Context, train: Train, fits: int) -> Teacher:
    """The teacher of a source, on the training split as ``teacher_for`` says."""
    exclusive = [name for name, head in context.dataset.train.heads.items() if tasks.of(head).EXCLUSIVE]
    form = Form(config.cache_dtype, config.cache_top, frozenset(exclusive))
    return Teacher(
        source,
        len(context.dataset.train),
        min(train.views, train.epochs),  # each fit begins with the first view again
        demand=Demand.by(train, fits, config.cache, form),
        hints=config.loss.hints,
        folder=context.work.parent / "teacher-outputs",
        progress=context.progress,
    )


def _together(config: Distill, context: Context, train: Train) -> Source:
    """The run's teacher, or it and the further ones joined into one, with a note of how good that is."""
    contract = context.dataset.contract
    own = _sources(config, TeachingSplit(context, train, "train", config))
    if len(own) == 1:
        return own[0]
    weights = [1.0, *(section.weight for section in config.teachers)]

    def combined(sources: Sequence[Source]) -> Combined:
        return Combined(sources, weights, combine=config.combine, contract=contract)

    # How good they are, alone and together, on the validation split.
    plain = train.model_copy(update={"augment": {}, "mix": None})
    judged = _sources(_without_hints(config), TeachingSplit(context, plain, "validation", config))
    validation = context.dataset.validation
    figures = [_quality(source, contract, validation) for source in [*judged, combined(judged)]]
    alone = ", ".join(f"teacher {number} {figure}" for number, figure in enumerate(figures[:-1], 1))
    note = (
        f"{len(own)} teachers ({config.combine}), {metric_of(contract)} on validation: {alone}, together {figures[-1]}"
    )
    whole = combined(own)
    whole.notes += (note,)
    return whole


def _without_hints(config: Distill) -> Distill:
    """The section without hints: what is judged are the logits."""
    return config.model_copy(update={"loss": config.loss.model_copy(update={"hints": (), "logits": 1.0})})


def _quality(source: Source, contract: Contract, samples: Samples) -> str:
    """The metric over the samples that the source has an output for, as text; with their number where it is not all."""
    parts = [source.outputs(np.arange(s, min(s + 128, len(samples))), 0) for s in range(0, len(samples), 128)]
    taught = np.concatenate([part.taught for part in parts])
    outputs = {name: np.concatenate([part.logits[name] for part in parts]) for name in contract.heads}
    for name, columns in source.columns.items():
        outputs[name] = spread_over(outputs[name], columns, contract.width(name))
    if not (taught & samples.labelled).any():
        return "not measured"
    figure = f"{score(contract, rows_of(outputs, taught), rows_of(samples.targets, taught)):.3f}"
    return figure if taught.all() else f"{figure} of {int(taught.sum())} samples"


@dataclass(frozen=True)
class TeachingSplit:
    """What a teacher teaches on: the samples of the split ``name``, under ``train``'s augmentation; ``config``: how they teach."""

    context: Context
    train: Train
    name: str
    config: Distill

    @property
    def ids(self) -> tuple[str, ...]:
        samples: Samples = getattr(self.context.dataset, self.name)
        return samples.ids

    def views(self, dataset: Dataset, modalities: Sequence[str] | None = None) -> TrainingViews:
        """The split of ``dataset``, ``modalities`` of it or all, augmented in its own sizes as the student's samples are in theirs."""
        samples: Samples = getattr(dataset, self.name)
        if modalities is not None:
            samples = samples.only(modalities)
        student, teacher = self.context.dataset.contract.modalities, dataset.contract.modalities
        augment = {
            name: scaled(augment, student[name], teacher[name])
            for name, augment in resolved(self.train.augment, student).items()
            if name in samples.inputs
        }
        alone = not self.config.teachers
        return TrainingViews(samples, augment, self.context.recipe.seed, self.train.mix, alone=alone)


def _sources(config: Distill, split: TeachingSplit) -> list[Source]:
    """The run's teacher first, then the others, each with its classes mapped onto the data's."""
    context = split.context
    assert context.teacher is not None
    hints = config.loss.hints
    # A student that teaches itself has a parent, and the data's classes, whatever the recipe's teacher has.
    section = context.recipe.teacher if context.teacher.parent is None else TeacherConfig()
    alone = not config.teachers
    sources = [_of_artifact(context.teacher, section, "teacher", hints, split, alone)]
    for number, section in enumerate(config.teachers):
        where = f"distill.teachers.{number}"
        if section.artifact:
            artifact = artifacts.read(section.artifact)
            sources.append(_of_artifact(artifact, section, where, (), split, alone))
        else:
            sources.append(_of_file(section, where, split))
            if split.name == "train" and not section.classes:
                _refuse_order(sources[-1], split, where)
    return sources


def _refuse_order(source: Source, split: TeachingSplit, where: str) -> None:
    """Raise UsageError where the training labels say that a source has its classes in another order than the data."""
    samples: Samples = getattr(split.context.dataset, split.name)
    for name, head in split.context.dataset.contract.heads.items():
        known = np.flatnonzero(samples.known(name))
        if not tasks.of(head).EXCLUSIVE or name in source.columns or not len(known):
            continue
        rows = known[:: -(-len(known) // JUDGED)]
        given = [source.outputs(rows[start : start + 128], 0) for start in range(0, len(rows), 128)]
        taught = np.concatenate([each.taught for each in given])
        if taught.any():
            logits = np.concatenate([each.logits[name] for each in given])
            check_order(logits[taught], samples.targets[name][rows[taught]], head.labels, f"{where}.classes")


def _of_artifact(
    artifact: Artifact, section: TeacherConfig, where: str, hints: Sequence[Hint], split: TeachingSplit, alone: bool
) -> Source:
    """An artifact as a source: its module, its graph, or its file of outputs. ``alone``: no other teaches."""
    context = split.context
    contract = teaching_contract(artifact, where)
    key = f"{artifact.sha256} {context.dataset.sha256} {split.name}"
    source: Source
    if (artifact.path / OUTPUTS_FILE).is_file():
        stored = stored_outputs(artifact.file(OUTPUTS_FILE))
        no_hints(hints, "a file of outputs")
        source = OutputsSource(stored, next(iter(contract.heads)), split.ids, key=key, split=split.name, alone=alone)
    else:
        with processes.main_first():  # what is preprocessed otherwise is written once
            dataset = context.dataset.preprocessed(contract.modalities, context.progress)
        views = split.views(dataset)
        if contract.written:
            views = replace(views, texts=_texts(split, contract))
        if "model" in artifact.meta:
            how = Inference(section.precision, section.sharded)
            source = ModuleSource(context.rebuild(artifact), contract, views, hints, key=key, who=where, how=how)
        else:
            source = GraphSource(artifact.file(artifacts.GRAPH), contract, views, hints, key=key, who=where)
    return _mapped(source, contract, section, context, where)


def _texts(split: TeachingSplit, contract: Contract) -> dict[str, np.ndarray]:
    """{head that writes: the texts that teacher and student are both led through, int64 [N, steps]}: those that the student learns."""
    samples = getattr(split.context.dataset, split.name)
    if split.name == "train":
        samples = taught_samples(split.config, split.context, split.context.dataset.contract)
    return {head: samples.targets[head] for head in contract.written}


def _of_file(section: FurtherTeacher, where: str, split: TeachingSplit) -> Source:
    """A further teacher of the recipe that is no artifact: weights of a module, an ONNX file, or a file of outputs."""
    source: Source
    context = split.context
    (file,) = section.files
    model, data = section.model, context.dataset.sha256
    code = code_state(model.factory, model.args, context.code) if model.factory else ""
    key = f"{file_state(file) if file.is_file() else file} {code} {section.model_dump_json()} {data} {split.name}"
    if section.outputs:
        of_data = context.dataset.contract
        stored = read_teacher_outputs(section, of_data, where)
        head = next(iter(of_data.heads))
        source = OutputsSource(stored, head, split.ids, key=key, split=split.name, alone=False)
        return _mapped(source, stored.contract(of_data), section, context, where)
    with processes.main_first():
        own = context.preprocessed_for(section)
    contract = own.contract(section.model)
    if section.classes:
        contract = contract.with_labels(tuple(section.classes))
    views = split.views(own.dataset, tuple(contract.modalities))
    if section.onnx:
        graph = context.work / f"{where}.onnx"
        with processes.main_first():
            graph.parent.mkdir(parents=True, exist_ok=True)
            adopt(section.onnx, contract, section.model.parameters, own.means(contract), graph, section.model.outputs)
        check_width(graph, contract, section.onnx, where)
        source = GraphSource(graph, contract, views, (), key=key, who=where)
    else:
        module = own.build(section.model, contract)
        refuse_probabilities(module, contract, where)
        how = Inference(section.precision, section.sharded)
        source = ModuleSource(module, contract, views, (), key=key, who=where, how=how)
    return _mapped(source, contract, section, context, where)


def scaled(augment: Augment, student: ModalitySpec, teacher: ModalitySpec) -> Augment:
    """The augmentation in the units of another preprocessing: shifts, masks and blur by the ratio of the axes' sizes.

    The draws are the same, so that both see the same change as far as whole steps go; noise is that of normalised
    values and stays. A sound's time is measured in milliseconds, since it may be cut to another length.
    """
    if student.shape == teacher.shape and getattr(student, "step_ms", 0) == getattr(teacher, "step_ms", 0):
        return augment
    along = teacher.shape[-1] / student.shape[-1]
    if student.kind == teacher.kind == "audio":
        along = student.step_ms / teacher.step_ms
    across = teacher.shape[-2] / student.shape[-2] if min(len(student.shape), len(teacher.shape)) > 2 else 1.0
    return augment.model_copy(
        update={
            **{key: round(getattr(augment, key) * along) for key in ("shift", "mask")},
            "blur": augment.blur * along,
            **{key: round(getattr(augment, key) * across) for key in ("shift_rows", "mask_rows")},
        }
    )


def read_teacher_outputs(section: TeacherConfig, contract: Contract, where: str) -> StoredOutputs:
    """The file of a teacher's outputs, its columns named: by itself, by ``classes``, or by the data's classes."""
    assert section.outputs is not None
    if len(contract.heads) > 1:
        raise UsageError(
            "a file of outputs is of one head, and the data has several",
            where=f"{where}: {section.outputs}",
            todo="teach with a model that has all heads",
        )
    (head,) = contract.heads.values()
    stored = read_outputs(section.outputs, section.values, head)
    named = tasks.of(head).file_labels(head.labels)
    if named and not stored.labels:
        labels = tuple(section.classes) or named
        if len(labels) != stored.logits.shape[1]:
            raise UsageError(
                f"the file has {stored.logits.shape[1]} outputs a sample for {len(labels)} classes",
                where=f"{where}: {section.outputs}",
                todo="name its columns in an array 'labels', or list its classes in order under 'classes'",
            )
        stored = replace(stored, labels=labels)
    class_map(stored.contract(contract), contract, section.classes, f"{where}.classes")
    return stored


def teaching_contract(artifact: Artifact, where: str) -> Contract:
    """The contract of an artifact that is to teach; raises UsageError where it cannot."""
    if "contract" not in artifact.meta:
        raise UsageError(f"an artifact of stage {artifact.stage!r} cannot teach", where=str(artifact.path))
    return contract_of(artifact)


def _mapped(source: Source, contract: Contract, section: TeacherConfig, context: Context, where: str) -> Source:
    classes = class_map(contract, context.dataset.contract, section.classes, f"{where}.classes")
    return MappedSource(source, classes) if classes else source
