"""What ``mmedge check`` can tell of the teachers, the hints and the labels before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import nn

from mmedge import artifact as artifacts
from mmedge.contract import Contract
from mmedge.data.augment.sounds import sound_files
from mmedge.data.manifest.splits import SPLITS
from mmedge.data.outputs import no_common_sample
from mmedge.data.store.samples import check_read
from mmedge.errors import Fault, MmedgeError, UsageError, refuse
from mmedge.graph.adopt import adopt, check_width
from mmedge.graph.trace import example
from mmedge.leftovers import scratch
from mmedge.measure.classes import class_map
from mmedge.models import load
from mmedge.preprocess import fit_vocabulary
from mmedge.recipe import FurtherTeacher, Model, Recipe, TeacherConfig, Train
from mmedge.recipe.code import code_of_artifact, refuse_foreign
from mmedge.spec import ModalitySpec, TextSpec
from mmedge.training.context import Context
from mmedge.training.loop.checkpointing import blocks
from mmedge.training.loop.transfer import idle, transfer_of
from mmedge.training.teaching.layers import HintedLayer, check_pair
from mmedge.training.teaching.sources import no_hints, without_outputs
from mmedge.training.teaching.taught import read_teacher_outputs, teaching_contract

UNTAUGHT = "no training sample has a label, so the teacher cannot be trained here"
TEACHERS = "name one that has learnt elsewhere: --from, teacher.onnx, teacher.outputs, or model.weights without train"


def teaching_faults(
    recipe: Recipe,
    contract: Contract,
    ids: Mapping[str, Sequence[str]],
    labelled: int | None,
    factory: Callable[[Model], object],
) -> list[Fault]:
    """All that is wrong with what teaches.

    ``contract``: the data's; ``ids``: the samples of each split, empty where the data could not be read; ``labelled``:
    how many training samples have a label; ``factory``: imports what ``model.factory`` names.
    """
    faults = list(noise_faults(recipe))
    faults += _teacher_faults(
        recipe.teacher, "teacher", contract, ids, factory, not (recipe.distill and recipe.distill.teachers)
    )
    faults += _sharding_faults(recipe.teacher, "teacher", contract, factory)
    if recipe.distill is None:
        return [*faults, *_transfer_faults(recipe, contract, factory)]
    for number, section in enumerate(recipe.distill.teachers):
        faults += _sharding_faults(section, f"distill.teachers.{number}", contract, factory)
        faults += _teacher_faults(section, f"distill.teachers.{number}", contract, ids, factory, False)
        faults += _foreign_code(section, f"distill.teachers.{number}", recipe)
    wanted = recipe.distill.labels
    if isinstance(wanted, int) and labelled is not None and wanted > labelled:
        what = f"{wanted} labels are asked for, the training split has {labelled}"
        faults.append(Fault("error", "labels", what, module="distill.labels", todo="ask for fewer, or say all"))
    if labelled == 0 and recipe.teacher.trained_here:  # with --from, another is taken
        faults.append(Fault("warning", "labels", UNTAUGHT, module="teacher", todo=TEACHERS))
    return [*faults, *_hint_faults(recipe, contract, factory), *_transfer_faults(recipe, contract, factory)]


def noise_faults(recipe: Recipe) -> Iterator[Fault]:
    """Folders of noises and impulse responses that hold none."""
    for stage, section in recipe.sections.items():
        for name, augment in getattr(getattr(section, "train", None), "augment", {}).items():
            for key, folder in augment.folders.items():
                try:
                    sound_files(folder, key)
                except MmedgeError as error:
                    yield Fault.of(error, "noise", module=f"{stage}.train.augment.{name}")


def refuse_untaught(context: Context) -> None:
    """Raise UsageError with the first thing wrong with the student, or with what teaches it, before a teacher is trained."""
    recipe, dataset = context.recipe, context.dataset
    assert recipe.distill is not None
    context.build(recipe.distill.model, context.contract(recipe.distill.model))
    ids = {split: getattr(dataset, split).ids for split in SPLITS}
    labelled = int(dataset.train.labelled.sum())
    refuse(teaching_faults(recipe, dataset.contract, ids, labelled, context.factory), UsageError)


def _teacher_faults(
    section: TeacherConfig,
    where: str,
    contract: Contract,
    ids: Mapping[str, Sequence[str]],
    factory: Callable[[Model], object],
    alone: bool,
) -> list[Fault]:
    try:
        check_read(contract.modalities, section.preprocessing)
        if section.outputs:
            return _outputs_faults(section, where, contract, ids, alone)
        if isinstance(section, FurtherTeacher) and section.artifact:
            own = teaching_contract(artifacts.read(section.artifact), where)
            check_read(contract.modalities, own.modalities)
            class_map(own, contract, section.classes, f"{where}.classes")
            return []
        own = own_contract(section, contract)
        if own.heads != contract.heads:
            class_map(own, contract, section.classes, f"{where}.classes")
        if section.onnx:
            with scratch() as folder:
                graph = folder / "adopted.onnx"
                means = {name: np.zeros(spec.shape, np.float32) for name, spec in own.modalities.items()}
                adopt(section.onnx, own, section.model.parameters, means, graph, section.model.outputs)
                check_width(graph, own, section.onnx, where)
        elif isinstance(section, FurtherTeacher):  # the run's own teacher is looked at as a model
            module = load.build(section.model, own, factory=factory(section.model))
            load.check_forward(module, own, where)
            load.refuse_probabilities(module, own, where)
    except MmedgeError as error:
        return [Fault.of(error, "teacher", module=where)]
    return []


def _sharding_faults(
    section: TeacherConfig, where: str, contract: Contract, factory: Callable[[Model], object]
) -> list[Fault]:
    """A teacher that ``sharded`` cannot divide, or would bring together whole whenever it computes."""
    if not section.sharded or section.onnx or section.outputs:
        return []
    with suppress(Exception):  # what is wrong with an artifact or a model is told elsewhere
        if isinstance(section, FurtherTeacher) and section.artifact:
            if "model" in artifacts.read(section.artifact).meta:
                return []
            what = "'sharded' is of a network in PyTorch, and the artifact holds none"
            return [Fault("error", "sharded", what, str(section.artifact), module=where, todo="leave it out")]
        own = own_contract(section, contract)
        if blocks(load.build(section.model, own, factory=factory(section.model), fresh=True)):
            return []
        what = (
            "'sharded' divides a network by its blocks (parts of nn.Sequential and nn.ModuleList that have parts themselves), and"
            " this one has none: all of its weights are brought together whenever it computes"
        )
        return [Fault("warning", "sharded", what, module=where)]
    return []


def _foreign_code(section: FurtherTeacher, where: str, recipe: Recipe) -> list[Fault]:
    """Code that a teacher's artifact names, and that is not run without the user's word."""
    with suppress(MmedgeError):  # an artifact that cannot be read is told elsewhere
        found = artifacts.read(section.artifact) if section.artifact else None
        try:
            refuse_foreign(code_of_artifact(found, recipe) if found else [], str(section.artifact))
        except UsageError as error:
            return [Fault.of(error, "teacher", module=where)]
    return []


def own_contract(section: TeacherConfig, contract: Contract) -> Contract:
    """The contract of a teacher that the recipe describes, where ``contract`` is the data's."""
    own = contract.model_copy(update={"modalities": {**contract.modalities, **section.preprocessing}})
    own = own.only(section.model.modalities) if section.model.modalities else own
    own = own.with_dimensions(section.model.dimensions)
    own = own.model_copy(update={"modalities": {name: _sized(spec) for name, spec in own.modalities.items()}})
    trained_here = getattr(section, "trained_here", False)  # then it has the data's classes
    return own.with_labels(tuple(section.classes)) if section.classes and not trained_here else own


def _sized(spec: ModalitySpec) -> ModalitySpec:
    """A text that was not fitted has the tokens of its file, else as many as it may have."""
    if not isinstance(spec, TextSpec) or spec.tokens is not None:
        return spec
    if spec.tokenizer_file is not None:
        with suppress(MmedgeError):  # what is wrong with the file is told where the data is looked at
            return fit_vocabulary(spec, ())
    return spec.model_copy(update={"tokens": spec.vocabulary})


def _outputs_faults(
    section: TeacherConfig, where: str, contract: Contract, ids: Mapping[str, Sequence[str]], alone: bool
) -> list[Fault]:
    stored = read_teacher_outputs(section, contract, where)
    faults = []
    for split, samples in ids.items():
        found = int((stored.rows(samples) >= 0).sum())
        if samples and not found and split == "train":
            raise no_common_sample(stored, samples, split)
        if found < len(samples):
            what = f"the file of the teacher's outputs has {found} of the {len(samples)} {split} samples"
            then = f"the others {without_outputs(alone)}" if split == "train" else "its quality is measured on those"
            faults.append(Fault("warning", "outputs", f"{what}; {then}", str(section.outputs), module=where))
    return faults


def _hint_faults(recipe: Recipe, contract: Contract, factory: Callable[[Model], object]) -> list[Fault]:
    """Hints of any of the losses whose layers do not exist, give nothing to compare, or cannot be compared as asked."""
    assert recipe.distill is not None
    hints, faults = [hint for loss in recipe.distill.losses for hint in loss.hints], []
    if recipe.teacher.onnx or recipe.teacher.outputs:
        who = "an ONNX teacher" if recipe.teacher.onnx else "a file of outputs"
        try:
            no_hints(hints, who)
        except UsageError as error:
            return [Fault.of(error, "hint")]
    sections = {
        "teacher": (recipe.teacher.model, own_contract(recipe.teacher, contract)),
        "student": (recipe.distill.model, own_contract(TeacherConfig(model=recipe.distill.model), contract)),
    }
    widths: dict[tuple[str, str, str], int] = {}
    for who, (section, own) in sections.items():
        wanted = sorted({(getattr(hint, who), hint.kind) for hint in hints})
        try:
            module = load.build(section, own, factory=factory(section), fresh=True).eval() if wanted else None
        except Exception:  # what is wrong with a model is told where the models are looked at
            continue
        layers: dict[tuple[str, str, str], HintedLayer] = {}
        for name, kind in wanted:
            assert module is not None
            try:
                layers[who, name, kind] = HintedLayer(module, name, kind, who)
            except UsageError as error:
                faults.append(Fault.of(error, "hint"))
        if layers and module is not None and _runs(module, own):
            for key, layer in layers.items():
                try:
                    widths[key] = layer.take(1).shape[1]
                except UsageError as error:
                    faults.append(Fault.of(error, "hint"))
    for hint in hints:
        student, teacher = ((who, getattr(hint, who), hint.kind) for who in ("student", "teacher"))
        if student in widths and teacher in widths:
            try:
                check_pair(hint, widths[student], widths[teacher])
            except UsageError as error:
                faults.append(Fault.of(error, "hint"))
    return faults


def _transfer_faults(recipe: Recipe, contract: Contract, factory: Callable[[Model], object]) -> list[Fault]:
    """Layers that a schedule freezes, thaws, adapts or gives a rate, and that the network does not have; what nothing follows."""
    trained: list[tuple[str, TeacherConfig, Train]] = []
    if recipe.distill:
        trained.append(("distill", TeacherConfig(model=recipe.distill.model), recipe.distill.train))
    if recipe.teacher.train and recipe.teacher.trained_here:
        trained.append(("teacher", recipe.teacher, recipe.teacher.train))
    faults = []
    for stage, section, train in trained:
        if {"freeze", "thaw", "rates", "lora", "layer_decay"} & train.model_fields_set:
            with suppress(Exception):  # what is wrong with a model is told where the models are looked at
                own = own_contract(section, contract)
                module = load.build(section.model, own, factory=factory(section.model), fresh=True)
                try:
                    transfer_of(module, train)
                except UsageError as error:
                    faults.append(Fault.of(error, "transfer", module=f"{stage}.{error.where}"))
                faults += [Fault("warning", "transfer", what, module=f"{stage}.train") for what in idle(module, train)]
    return faults


def _runs(module: nn.Module, contract: Contract) -> bool:
    """Run one example; whether that went well. Why it did not is told where the models are looked at."""
    with torch.no_grad(), suppress(Exception):
        module(**example(contract, 1))
        return True
    return False
