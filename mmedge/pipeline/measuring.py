"""The figures of every stage: quality, latency in one interleaved run, and what distillation gained. Each is taken once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from mmedge.artifact import GRAPH, Artifact, code_hash, contract_of, hash_json, remembered
from mmedge.backends import GRAPH_BACKEND, Session
from mmedge.backends.session import TensorInfo
from mmedge.data.outputs import OUTPUTS_FILE, stored_outputs
from mmedge.machine import machine
from mmedge.measure.figures import figures, figures_of_stored
from mmedge.measure.gain import gain
from mmedge.measure.latency import one_sample, own_samples, ratio_figures, time_graphs
from mmedge.measure.quality import graph_predictor, module_run
from mmedge.pipeline.predicting import Predictions, classes_of, is_outputs
from mmedge.pipeline.ran import Ran
from mmedge.profiling.timing import disturbed
from mmedge.report.schema import ControlRecord, FiguresRecord, LatencyRecord, StageRecord
from mmedge.stages.results import TORCH, ComparedRecord
from mmedge.training.context import Context

# What a figure may depend on, beside what was measured.
_CODE = (
    "measure",
    "tasks",
    "gate.py",
    "pipeline/evidence.py",
    "pipeline/predicting.py",
    "profiling/timing.py",
    "backends",
)


def measured(done: Ran, artifact: Artifact, predictions: Predictions) -> tuple[FiguresRecord, list[str]]:
    """Quality and subsets, with notes; of a teacher that is a file of outputs, quality where the file has the split's samples."""
    context = predictions.context
    classes = classes_of(done, artifact, context)
    key: list[Any] = [artifact.sha256, context.dataset.sha256]
    key += [classes.to] if classes else []

    def compute() -> Any:
        if is_outputs(artifact):
            stored = stored_outputs(artifact.file(OUTPUTS_FILE))
            return figures_of_stored(stored, context.dataset.contract, context.dataset, classes=classes).record()
        try:
            return figures(partial(predictions.of, done, artifact)).record()
        finally:
            predictions.close()

    found = FiguresRecord.model_validate(once("figures", key, context, f"measuring {done.stage}", compute))
    return found, [*([classes.note()] if classes else []), *found.absent]


def once(what: str, key: list[Any], context: Context, saying: str, compute: Callable[[], Any]) -> Any:
    """A measurement that was taken before of the same things is not taken again."""

    def taken() -> Any:
        context.progress.say(saying)
        return compute()

    name = f"{what}-{hash_json([key, code_hash(*_CODE)])[:24]}.json"
    return remembered(context.out / ".work" / "measured" / name, taken)


def with_latency(done: Ran, record: StageRecord, latencies: Mapping[str, LatencyRecord]) -> StageRecord:
    """The record with its latency, or with a note why there is none."""
    own = done.result.latency if done.result else None  # taken by the stage itself, on its own target
    latency = own or latencies.get(done.stage)
    if latency is not None:
        notes = [*record.notes, *(disturbed(latency.cv) if own is None else [])]
        return record.model_copy(update={"latency": latency, "notes": notes})
    if done.artifact and not is_outputs(done.artifact):
        why = "latency not measured: no device of the target here; quality is that of the ONNX graph the engine was built from"
        return record.model_copy(update={"notes": [*record.notes, why]})
    return record


def latencies_of(ran: list[Ran], context: Context) -> dict[str, LatencyRecord]:
    """{stage: its latency}: all that ONNX Runtime or PyTorch runs on the CPU, in one interleaved run."""
    timed = {
        done.stage: done.artifact
        for done in ran
        if done.artifact
        and done.result
        and done.result.target in (GRAPH_BACKEND, TORCH)
        and not is_outputs(done.artifact)
    }
    if not timed:  # of a file of outputs alone
        return {}
    measure = context.recipe.measure
    teacher = next((done.stage for done in ran if done.step.row.role == "teacher"), None)
    key = [{stage: artifact.sha256 for stage, artifact in timed.items()}, teacher]
    key += [measure.model_dump(mode="json"), machine().record()]
    compute = partial(_timed, timed, teacher, context)
    found = once("latency", key, context, "measuring latency, all stages in turn", compute)
    how = {"batch": measure.batch, "threads": measure.threads}
    targets = {done.stage: done.result.target for done in ran if done.result}
    return {stage: LatencyRecord(target=targets[stage], **how, **figures) for stage, figures in found.items()}


def _timed(timed: Mapping[str, Artifact], teacher: str | None, context: Context) -> Any:
    dataset, measure = context.dataset, context.recipe.measure
    contracts = {stage: contract_of(artifact) for stage, artifact in timed.items()}
    own = own_samples(contracts, dataset, measure.batch, context.progress)
    modules = {stage: artifact for stage, artifact in timed.items() if artifact.meta.get("target") == TORCH}
    graphs = {stage: artifact.file(GRAPH) for stage, artifact in timed.items() if stage not in modules}
    inputs = one_sample(dataset.test, measure.batch)
    others = {stage: partial(_in_torch, artifact, context) for stage, artifact in modules.items()}
    found = time_graphs(graphs, inputs, measure, context.progress, own, others)
    by_sha256 = {artifact.sha256: stage for stage, artifact in timed.items()}
    latencies = {}
    for stage, artifact in timed.items():
        latencies[stage] = found.timing(stage).record()
        for name, other in (("teacher", teacher), ("parent", by_sha256.get(artifact.parent or ""))):
            if other in found:
                latencies[stage] |= ratio_figures(found, stage, str(other), name)
    return latencies


def _in_torch(artifact: Artifact, context: Context) -> Session:
    """A network that was not exported, to be timed beside graphs, by as many threads."""
    import torch

    contract, run = contract_of(artifact), module_run(context.rebuild(artifact))
    present = {"present": TensorInfo(np.dtype(bool), (None, len(contract.modalities)))}
    infos = {name: TensorInfo(np.dtype(spec.dtype), (None, *spec.shape)) for name, spec in contract.modalities.items()}

    def timed(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        before = torch.get_num_threads()
        torch.set_num_threads(context.recipe.measure.threads)
        try:
            return dict(run(inputs))
        finally:
            torch.set_num_threads(before)

    return Session(timed, infos | present, run)


def controls_of(ran: list[Ran], context: Context) -> list[ControlRecord]:
    """What each control says on the test split, read here for the first time."""
    return [
        ControlRecord.model_validate(
            once(
                "gain",
                [artifact.sha256, context.dataset.sha256, context.recipe.seed, context.recipe.measure.bootstrap, name],
                context,
                f"measuring the gain over the control {name}",
                partial(_compare, artifact, result.students, name, compared, context),
            )
        )
        for artifact, result in ((done.artifact, done.result) for done in ran)
        if artifact and result
        for name, compared in result.controls.items()
    ]


def _compare(artifact: Artifact, students: list[str], name: str, compared: ComparedRecord, context: Context) -> Any:
    """One control's record: the students of both sides, rebuilt, shown what the control is about."""
    contract = contract_of(artifact)
    test = context.dataset.test.only(tuple(contract.modalities))
    test = test.masked_to(compared.shown) if compared.shown else test
    ours, theirs = (
        [
            graph_predictor(module_run(context.rebuild(artifact, student)), contract, test)(test.present)
            for student in students
            if student.rpartition("-")[0] == side
        ]
        for side in (compared.against, compared.students)
    )
    resamples = context.recipe.measure.bootstrap
    return gain(contract, ours, theirs, test, name=name, resamples=resamples, seed=context.recipe.seed).record()
