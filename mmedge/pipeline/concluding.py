"""The end of a run: measure every stage, judge it, write the bundle and the report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mmedge
from mmedge.artifact import WEIGHTS, write_json
from mmedge.data.outputs import ANSWERS
from mmedge.machine import machine
from mmedge.pipeline.bundling import write_bundle
from mmedge.pipeline.judging import Judging
from mmedge.pipeline.measuring import GRAPH, add_latency, controls_of, is_outputs, measured
from mmedge.pipeline.ran import Outcome, Ran
from mmedge.recipe import shown
from mmedge.report.schema import DataRecord, Report
from mmedge.stages.results import TORCH
from mmedge.training.context import Context
from mmedge.training.loop.log import CSV, csv_read


def conclude(ran: list[Ran], context: Context) -> Outcome:
    """Measure every stage, judge it, write the bundle and the report."""
    recipe, dataset = context.recipe, context.dataset
    records = [_record(done, context) for done in ran]
    add_latency(ran, records, context)
    controls = controls_of(ran, context)
    judging = Judging(ran, records, controls, recipe.gates)
    exit_codes = [judging.judge(done, record) for done, record in zip(ran, records) if not done.given]
    report = Report(
        schema=1,
        mmedge=mmedge.__version__,
        recipe=shown(recipe),
        seed=recipe.seed,
        machine=machine(),
        data=DataRecord(
            sha256=dataset.sha256,
            source=dataset.source,
            train=len(dataset.train),
            validation=len(dataset.validation),
            test=len(dataset.test),
            **dataset.facts,
        ),
        stages=records,
        controls=controls,
        verdict="fail" if any(exit_codes) else "pass",
    ).record()
    write_bundle(ran, report, context)
    write_json(context.out / "report.json", report)
    return Outcome(report, min((code for code in exit_codes if code), default=0))


def _record(done: Ran, context: Context) -> dict[str, Any]:
    if done.artifact is None:
        return {"stage": done.stage, "status": "skipped", "gates": [], "notes": [done.note]}
    artifact, result = done.artifact, done.result
    assert result is not None, "an artifact has one"
    own = WEIGHTS if result.target == TORCH else ANSWERS if is_outputs(artifact) else GRAPH
    shipped = result.engine.files if result.engine and result.engine.files else [own]
    record: dict[str, Any] = {
        "stage": done.stage,
        "parent": artifact.parent,
        "artifact": Path(os.path.relpath(artifact.path, context.out)).as_posix(),
        "sha256": artifact.sha256,
        "size_bytes": sum(artifact.file(name).stat().st_size for name in shipped),
        "seconds": round(done.seconds, 2),
    }
    record |= result.told()
    if artifact.file(CSV).is_file() and (history := csv_read(artifact.file(CSV))):
        columns = ("loss", "quality", "selection")  # a figure an epoch, on validation but for the loss
        record["learning"] = {name: [float(f"{row[name]:.4g}") for row in history] for name in columns}
    found, notes = measured(done, artifact, context)
    return record | found | {"gates": [], "status": done.status, "notes": [*result.notes, *notes]}
