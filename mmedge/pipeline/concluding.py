"""The end of a run: measure every stage, judge it, write the bundle and the report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import mmedge
from mmedge.artifact import GRAPH, WEIGHTS, Artifact, write_json
from mmedge.data.outputs import OUTPUTS_FILE
from mmedge.machine import machine
from mmedge.measure.temperature import told
from mmedge.pipeline.bundling import write_bundle
from mmedge.pipeline.evidence import baseline_of
from mmedge.pipeline.judging import Judging, verdict_of
from mmedge.pipeline.measuring import controls_of, latencies_of, measured, once, with_latency
from mmedge.pipeline.predicting import Predictions, is_outputs
from mmedge.pipeline.provenance import provenance
from mmedge.pipeline.ran import Outcome, Ran
from mmedge.pipeline.reviewing import contributions_of, disagreements_of, inside_of, reviews_of
from mmedge.pipeline.tracked import tell
from mmedge.recipe import portable
from mmedge.report.schema import DataRecord, LearningRecord, Report, StageRecord, TemperatureRecord
from mmedge.stages.results import TORCH
from mmedge.training.context import Context
from mmedge.training.loop.log import CSV, csv_read


def conclude(ran: list[Ran], context: Context) -> Outcome:
    """Measure every stage, judge it, write the bundle and the report."""
    recipe, dataset = context.recipe, context.dataset
    predictions = Predictions(context)
    found = [_record(done, predictions) for done in ran]
    latencies = latencies_of(ran, context)
    records = [with_latency(done, record, latencies) for done, record in zip(ran, found)]
    controls = controls_of(ran, context)
    reviews = reviews_of(ran, predictions)
    records = [
        record.model_copy(update={"review": reviews[record.stage]}) if reviews.get(record.stage) else record
        for record in records
    ]
    differ, contributions = disagreements_of(ran, predictions), contributions_of(ran, predictions)
    inside = inside_of(ran, context)
    baseline = baseline_of(ran, predictions) if recipe.gates != "none" else None
    judging = Judging.of(ran, records, controls, predictions)
    records = [judging.with_losses(done, record) for done, record in zip(ran, records)]
    # What was given was judged by the run that made it, which has its parents to compare with.
    verdicts = [([], 0) if done.given else judging.judge(done, record) for done, record in zip(ran, records)]
    exit_codes = [code for _, code in verdicts]
    report = Report(
        schema=1,
        mmedge=mmedge.__version__,
        recipe=portable(recipe),
        seed=recipe.seed,
        machine=machine(),
        data=DataRecord(
            sha256=dataset.sha256,
            source=dataset.source,
            train=len(dataset.train),
            validation=len(dataset.validation),
            test=len(dataset.test),
            **dataset.facts.record(),
            splits=dict(dataset.cards),
        ),
        stages=[record.model_copy(update={"gates": gates}) for record, (gates, _) in zip(records, verdicts)],
        controls=controls,
        provenance=provenance(context.command),
        **({"baseline": baseline} if baseline else {}),
        **({"disagreements": differ} if differ else {}),
        **({"contributions": contributions} if contributions else {}),
        **({"inside": inside} if inside else {}),
        verdict=verdict_of([gate for gates, _ in verdicts for gate in gates]),
    )
    write_bundle(ran, report, context)
    write_json(context.out / "report.json", report.record())
    if context.tracking:
        tell(report, context)
    return Outcome(report, min((code for code in exit_codes if code), default=0))


def _record(done: Ran, predictions: Predictions) -> StageRecord:
    """What a stage made, and its figures; latency is all stages' together."""
    artifact, result = done.artifact, done.result
    if artifact is None or result is None:
        return StageRecord(stage=done.stage, status="skipped", gates=[], notes=[done.note or ""])
    own = WEIGHTS if result.target == TORCH else OUTPUTS_FILE if is_outputs(artifact) else GRAPH
    shipped = result.engine.files if result.engine and result.engine.files else [own]
    found, notes = measured(done, artifact, predictions)
    record = StageRecord(
        stage=done.stage,
        parent=artifact.parent,
        artifact=Path(os.path.relpath(artifact.path, predictions.context.out)).as_posix(),
        sha256=artifact.sha256,
        size_bytes=sum(artifact.file(name).stat().st_size for name in shipped),
        seconds=round(done.seconds, 2),
        **_learning(artifact),
        **{name: value for name, value in found.record().items() if name != "absent"},
        gates=[],
        status=done.status,
        notes=[*result.notes, *notes],
    )
    return result.added_to(_with_temperatures(done, artifact, record, predictions))


def _with_temperatures(done: Ran, artifact: Artifact, record: StageRecord, predictions: Predictions) -> StageRecord:
    """The record of an engine with what its probabilities are taken at, and what that does on the test split."""

    def compute() -> Any:
        fitted = predictions.temperatures(done, artifact)
        contract, samples, predict = predictions.given(done, artifact)
        each = told(contract, predict(samples.present), samples, fitted) if fitted else {}
        return {name: found.record() for name, found in each.items()}

    context = predictions.context
    if not done.step.ends or not context.recipe.export.temperature:
        return record
    key = [artifact.sha256, context.dataset.sha256]
    given = once("temperatures", key, context, f"calibrating the probabilities of {done.stage}", compute)
    found = TypeAdapter(dict[str, TemperatureRecord]).validate_python(given)
    if not found:
        return record
    of = {name: f" of {name}" if len(found) > 1 else "" for name in found}
    notes = [*record.notes, *(str(each).replace(" at", f"{of[name]} at", 1) for name, each in found.items())]
    return record.model_copy(update={"temperatures": found, "notes": notes})


def _learning(artifact: Artifact) -> dict[str, LearningRecord]:
    """A figure an epoch, on validation but for the loss, of what was trained."""
    history = csv_read(artifact.file(CSV)) if artifact.file(CSV).is_file() else []
    if not history:
        return {}
    columns = ("loss", "quality", "selection")
    figures = {name: [float(f"{row[name]:.4g}") for row in history] for name in columns}
    return {"learning": LearningRecord(**figures)}
