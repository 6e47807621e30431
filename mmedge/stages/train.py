"""The teacher: trained here, or taken as it is from the weights that the recipe names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmedge import tasks
from mmedge.artifact import GRAPH, Artifact
from mmedge.backends import onnxruntime_cpu
from mmedge.contract import Contract
from mmedge.data.outputs import OUTPUTS_FILE, no_common_sample, write_outputs
from mmedge.data.store.samples import Samples
from mmedge.errors import UsageError
from mmedge.graph.adopt import adopt, check_whole, check_width
from mmedge.graph.counts import count
from mmedge.graph.foreign import to_opset
from mmedge.measure.classes import JUDGED, check_order
from mmedge.measure.quality import Outputs, predict_graph, predict_module
from mmedge.models.load import refuse_probabilities
from mmedge.recipe import MainTeacher
from mmedge.stages.results import ComparedRecord, StageResult
from mmedge.stages.trained import Trained, provenance, write_trained
from mmedge.training.context import Context
from mmedge.training.faults import TEACHERS, UNTAUGHT
from mmedge.training.loop import processes
from mmedge.training.loop.fit import Fitted
from mmedge.training.pretexts import from_nothing
from mmedge.training.privacy import spent_record
from mmedge.training.teaching.lesson import Lesson
from mmedge.training.teaching.taught import read_teacher_outputs

# Training samples whose values are held against what an ONNX teacher takes.
_LOOKED_AT = 64
# Those that an ONNX teacher in another opset must answer as before.
_ANSWERED = 8


def train(parent: Artifact | None, config: MainTeacher, context: Context) -> StageResult:
    """Train the teacher on all labels, or take it as it is. ``parent`` is None: it is the root of the run."""
    if config.outputs is not None:
        return _stored(config, config.outputs, context)
    with processes.main_first():
        context = context.preprocessed_for(config)
    contract = context.contract(config.model)
    if config.classes and not config.trained_here:
        contract = contract.with_labels(tuple(config.classes))
    if config.onnx is not None:
        return _adopted(config, contract, config.onnx, context)
    samples, validation = (
        split.only(tuple(contract.modalities)) for split in (context.dataset.train, context.dataset.validation)
    )
    torch.manual_seed(context.recipe.seed)
    module = context.build(config.model, contract)
    others: dict[str, nn.Module] = {}
    if config.train is None:
        refuse_probabilities(module, contract, "teacher.model")
        _check_order(config, context, samples, lambda part: predict_module(module.eval(), contract, part, part.present))
        fitted = Fitted([], 0, ("taken from its weights, not trained here",))
    else:
        if not samples.labelled.any():
            raise UsageError(UNTAUGHT, where="teacher", todo=TEACHERS)
        lesson = Lesson(contract, samples, validation, config.model, context, sharded=config.sharded)
        fitted = lesson.taught(module, config.train, "teacher", config.pretrain)
        if config.pretrain and config.pretrain.control:
            torch.manual_seed(context.recipe.seed)
            other = context.build(config.model, contract)
            lesson.taught(other, from_nothing(config.train, config.pretrain), "from-nothing", None)
            others = {"pretrained-0": module, "from-nothing-0": other}
    trained = Trained(module, contract, fitted, config.model, others=others, exported=config.export)
    written = write_trained(trained, context)
    if others:
        over = ComparedRecord(students="from-nothing", against="pretrained", shown=None)
        written = StageResult.of(written, students=sorted(others), controls={"no-pretraining": over})
    if config.train is None or fitted.private is None:
        return written
    privacy = spent_record(config.train, [fitted.private], context, factory=config.model.factory is not None)
    return StageResult.of(written, privacy=privacy, notes=[*written.notes, str(privacy)])


def _adopted(config: MainTeacher, contract: Contract, source: Path, context: Context) -> StageResult:
    """An ONNX teacher: the file behind the contract. It can teach, and not be pruned."""
    graph = context.folder / GRAPH
    notes = adopt(source, contract, config.model.parameters, context.means(contract), graph, config.model.outputs)
    check_width(graph, contract, source, "teacher")
    session = onnxruntime_cpu.session(graph, threads=torch.get_num_threads())
    samples = context.dataset.train.only(tuple(contract.modalities))
    present = samples.present[:_LOOKED_AT].T
    looked = {name: x[:_LOOKED_AT][there] for (name, x), there in zip(samples.inputs.items(), present)}
    check_whole(source, contract, config.model.parameters, looked)
    if context.recipe.export.opset is not None:
        few = {name: x[:_ANSWERED] for name, x in samples.inputs.items()}
        example = {**few, "present": samples.present[:_ANSWERED]}
        notes += to_opset(graph, context.recipe.export.opset, example)
        session = onnxruntime_cpu.session(graph, threads=torch.get_num_threads())
    _check_order(config, context, samples, lambda part: predict_graph(session, contract, part, part.present))
    parameters, multiplied = count(graph)
    notes = [f"an ONNX file, taken as it is: {source.name}", *notes]
    return StageResult(**provenance(contract, context), params=parameters, macs=multiplied, notes=notes)


def _stored(config: MainTeacher, source: Path, context: Context) -> StageResult:
    """A teacher that is a file of outputs: it has no graph, and can only teach."""
    stored = read_teacher_outputs(config, context.dataset.contract, "teacher")
    everybody = {sample for split in ("train", "validation", "test") for sample in getattr(context.dataset, split).ids}
    kept = [row for row, sample in enumerate(stored.ids) if sample in everybody]
    if not kept:
        raise no_common_sample(stored, context.dataset.train.ids, "train")
    of_data = context.dataset.contract
    ((name, head),) = of_data.heads.items()
    contract = stored.contract(of_data).model_copy(update={"modalities": {}})
    train = context.dataset.train
    if stored.labels == head.labels:
        covered = train.taken(np.flatnonzero(stored.rows(train.ids) >= 0))
        _check_order(config, context, covered, lambda part: {name: stored.logits[stored.rows(part.ids)]})
    known = replace(stored, ids=tuple(stored.ids[row] for row in kept), logits=stored.logits[kept])
    write_outputs(known, context.folder / OUTPUTS_FILE)
    notes = [
        f"outputs that were computed elsewhere: {source.name}, {len(kept)} of the data's {len(everybody)} samples",
        "no model: parameters, multiply-accumulates, latency and subsets of modalities are not measured",
    ]
    return StageResult(**provenance(contract, context), notes=notes)


def _check_order(
    config: MainTeacher, context: Context, samples: Samples, outputs: Callable[[Samples], Outputs]
) -> None:
    """Raise UsageError where a ready-made teacher gives the training labels in another order of classes.

    ``outputs``: those for some of the ``samples``. An order that the recipe gives is believed.
    """
    for name, head in context.dataset.contract.heads.items():
        known = np.flatnonzero(samples.known(name))
        if tasks.of(head).EXCLUSIVE and not config.classes and len(known):
            part = samples.taken(known[:: -(-len(known) // JUDGED)])
            check_order(outputs(part)[name], part.targets[name], head.labels, "teacher.classes")
