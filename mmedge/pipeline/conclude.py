"""The end of a run: measure every stage, judge it, write the bundle and the report."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mmedge
from mmedge import artifact as artifacts
from mmedge import gate
from mmedge.artifact import Artifact, code_hash, hash_json, write_json
from mmedge.backends import GRAPH_BACKEND
from mmedge.data.answers import ANSWERS, stored_answers
from mmedge.data.store import samples
from mmedge.machine import machine
from mmedge.measure.classes import ClassMap, class_map
from mmedge.measure.figures import figures, figures_of_answers
from mmedge.measure.gain import gain
from mmedge.measure.latency import one_sample, time_graphs
from mmedge.measure.quality import predict_module
from mmedge.models.load import WEIGHTS, contract_of
from mmedge.recipe import Recipe, shown
from mmedge.stages import export
from mmedge.training.context import Context
from mmedge.training.loop.log import CSV, csv_read

GRAPH = "model.onnx"
# What a stage says of itself that the report repeats.
_TOLD = (
    "params",
    "macs",
    "precision",
    "candidates",
    "decision",
    "losses",
    "calibration",
    "fusion_points",
    "sensitivity",
    "pruning",
    "verification",
)


@dataclass(frozen=True)
class Ran:
    """One stage of a run. ``status``: ran, cached, or skipped (then there is no artifact, and ``note`` says why).

    ``given``: it was named by ``--from``, or stands beside what was; its gates are another run's.
    """

    stage: str
    artifact: Artifact | None
    status: str
    seconds: float
    note: str | None = None
    given: bool = False


@dataclass(frozen=True)
class Outcome:
    """The report that was written, and the exit code that its gates ask for."""

    report: dict[str, Any]
    exit_code: int


def conclude(recipe: Recipe, dataset: samples.Dataset, ran: list[Ran], context: Context, out: Path) -> Outcome:
    """Measure every stage, judge it, write the bundle and the report."""
    records = [_record(done, dataset, recipe, context, out) for done in ran]
    _add_latency(ran, records, dataset, recipe, context, out)
    controls = _controls(ran, dataset, recipe, context, out)
    exit_codes: list[int] = []
    for done, record in zip(ran, records):
        if done.given:  # judged by the run that made it, which has its parents to compare with
            continue
        exit_codes.append(_judge(record, records, recipe))
        exit_codes += _missed(done.artifact, record)
        if done.stage == "distill":
            exit_codes.append(_judge_gain(record, controls, recipe))
    report = {
        "schema": 1,
        "mmedge": mmedge.__version__,
        "recipe": shown(recipe),
        "seed": recipe.seed,
        "machine": machine(),
        "data": {
            "sha256": dataset.sha256,
            "source": dataset.source,
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "test": len(dataset.test),
            **dataset.facts,
        },
        "stages": records,
        "controls": controls,
        "verdict": "fail" if any(exit_codes) else "pass",
    }
    engines = [
        (done, record) for done, record in zip(ran, records) if done.stage.startswith("export-") and done.artifact
    ]
    if any(done.stage == f"export-{GRAPH_BACKEND}" for done, _ in engines):
        _write_bundle(engines, report, out, context.progress.say)
    write_json(out / "report.json", report)
    return Outcome(report, min((code for code in exit_codes if code), default=0))


def _record(done: Ran, dataset: samples.Dataset, recipe: Recipe, context: Context, out: Path) -> dict[str, Any]:
    if done.artifact is None:
        return {"stage": done.stage, "status": "skipped", "gates": [], "notes": [done.note]}
    artifact, meta = done.artifact, done.artifact.meta
    shipped = meta.get("engine", {}).get("files", [ANSWERS if _answers(artifact) else GRAPH])
    record: dict[str, Any] = {
        "stage": done.stage,
        "parent": artifact.parent,
        "artifact": Path(os.path.relpath(artifact.path, out)).as_posix(),
        "sha256": artifact.sha256,
        "size_bytes": sum(artifact.file(name).stat().st_size for name in shipped),
        "seconds": round(done.seconds, 2),
    }
    record |= {field: meta[field] for field in _TOLD if field in meta}
    record |= _learning(artifact)
    classes = _classes(artifact, dataset, recipe)
    measured = _remembered(
        out,
        "figures",
        [artifact.sha256, dataset.sha256, recipe.seed, recipe.measure.bootstrap, *([classes.to] if classes else [])],
        context,
        f"measuring {done.stage}",
        lambda: _measured(artifact, classes, dataset, recipe, context),
    )
    absent = measured.pop("absent", [])
    notes = [*meta["notes"], *([classes.said()] if classes else []), *absent]
    return record | measured | {"gates": [], "status": done.status, "notes": notes}


def _learning(artifact: Artifact) -> dict[str, Any]:
    """``{"learning": {"loss", "quality", "selection": a figure an epoch, on validation but for the loss}}`` of what was trained."""
    history = csv_read(artifact.file(CSV)) if artifact.file(CSV).is_file() else []
    columns = ("loss", "quality", "selection")
    return {"learning": {name: [float(f"{row[name]:.4g}") for row in history] for name in columns}} if history else {}


def _measured(
    artifact: Artifact, classes: ClassMap | None, dataset: samples.Dataset, recipe: Recipe, context: Context
) -> dict[str, Any]:
    """Quality and subsets; of a teacher that is a file of outputs, quality where the file has the split's samples."""
    contract = contract_of(artifact)
    if _answers(artifact):
        answers = stored_answers(artifact.file(ANSWERS))
        return figures_of_answers(answers, dataset.contract, dataset, recipe.measure, recipe.seed, classes=classes)
    engine, on = export.measured_file(artifact)
    seen = dataset.preprocessed(contract.modalities, context.progress)
    return figures(engine, contract, seen, recipe.measure, recipe.seed, target=on, classes=classes)


def _answers(artifact: Artifact) -> bool:
    """Whether it is a file of outputs, without a graph."""
    return artifact.file(ANSWERS).is_file()


def _classes(artifact: Artifact, dataset: samples.Dataset, recipe: Recipe) -> ClassMap | None:
    """What a teacher's classes mean, where they are not the data's; every other stage has the data's."""
    if artifact.stage != "teacher":
        return None
    theirs, ours = contract_of(artifact), dataset.contract
    return class_map(theirs.labels, ours.labels, recipe.teacher.classes, "teacher.classes", task=ours.task)


def _remembered(out: Path, what: str, key: list[Any], context: Context, saying: str, compute: Callable[[], Any]) -> Any:
    """A measurement that was taken before of the same things is not taken again."""
    path = (
        out
        / ".work"
        / "measured"
        / f"{what}-{hash_json([key, code_hash('measure', 'profiling/timing.py', 'backends')])[:24]}.json"
    )
    with suppress(OSError, ValueError):  # not there, or damaged: then it is taken again
        return json.loads(path.read_text())
    context.progress.say(saying)
    value = compute()
    write_json(path, value)
    return value


def _add_latency(
    ran: list[Ran], records: list[dict[str, Any]], dataset: samples.Dataset, recipe: Recipe, context: Context, out: Path
) -> None:
    timed = {
        done.stage: done.artifact
        for done in ran
        if done.artifact
        and done.artifact.meta.get("target", GRAPH_BACKEND) == GRAPH_BACKEND
        and not _answers(done.artifact)
    }
    graphs = {stage: artifact.file(GRAPH) for stage, artifact in timed.items()}
    measure = recipe.measure
    key = [{stage: artifact.sha256 for stage, artifact in timed.items()}, measure.model_dump(mode="json"), machine()]
    inputs = one_sample(dataset.test, measure.batch)
    own = {}
    for stage, artifact in timed.items():
        contract = contract_of(artifact)
        if any(spec != dataset.contract.modalities[name] for name, spec in contract.modalities.items()):
            own[stage] = one_sample(dataset.preprocessed(contract.modalities, context.progress).test, measure.batch)
    timings = {}
    if timed:  # not so of a file of outputs alone
        timings = _remembered(
            out,
            "latency",
            key,
            context,
            "measuring latency, all stages in turn",
            lambda: {
                stage: timing.record()
                for stage, timing in time_graphs(graphs, inputs, measure, context.progress, own).items()
            },
        )
    by_sha256 = {artifact.sha256: stage for stage, artifact in timed.items()}
    for done, record in zip(ran, records):
        stage = record["stage"]
        if done.artifact and "latency" in done.artifact.meta:  # taken by the export itself, on its own target
            record["latency"] = done.artifact.meta["latency"]
        elif stage in timings:
            parent = by_sha256.get(record["parent"])
            timing = timings[stage]
            record["latency"] = {
                "target": GRAPH_BACKEND,
                "batch": measure.batch,
                "threads": measure.threads,
                **timing,
            }
            if "teacher" in timings:
                record["latency"]["ratio_to_teacher"] = timing["p50_ms"] / timings["teacher"]["p50_ms"]
            if parent:
                record["latency"]["ratio_to_parent"] = timing["p50_ms"] / timings[parent]["p50_ms"]
            if timing["cv"] > 0.3:
                record["notes"].append(
                    f"latency spread is wide (cv {timing['cv']:.2f}): the machine was busy; ratios hold, single figures may not"
                )
        elif done.artifact and not _answers(done.artifact):
            record["notes"].append(
                "latency not measured: no device of the target here; quality is that of the ONNX graph the engine was built from"
            )


def _judge(record: dict[str, Any], records: list[dict[str, Any]], recipe: Recipe) -> int:
    """Fill the record's gates; the exit code of the first kind that failed."""
    limits = {
        name: limit for name, limit in recipe.gates.get(record["stage"], {}).items() if not name.startswith("gain")
    }
    verdict = gate.judge(_gate_figures(record, records), limits)
    record["gates"] = [judged.record() for judged in verdict.gates]
    return verdict.exit_code


def _missed(artifact: Artifact | None, record: dict[str, Any]) -> list[int]:
    """Budgets that the stage itself judged, on validation, and could not meet; their exit codes."""
    misses = artifact.meta.get("misses", []) if artifact else []
    record["gates"] += [
        {"name": miss["name"], "limit": miss["limit"], "value": miss["value"], "passed": False} for miss in misses
    ]
    return [miss["exit"] for miss in misses]


def _judge_gain(record: dict[str, Any], controls: list[dict[str, Any]], recipe: Recipe) -> int:
    """The gates on the gain; without a control it was not measured, and they do not pass."""
    limits = {name: limit for name, limit in recipe.gates.get("distill", {}).items() if name.startswith("gain")}
    over = next((control for control in controls if control["name"] == "no-distillation"), None)
    figures = {"gain": over["gain"], "gain_ci95_low": over["gain_ci95"][0]} if over else {}
    verdict = gate.judge(figures, limits)
    record["gates"] += [judged.record() for judged in verdict.gates]
    return verdict.exit_code


def _gate_figures(record: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, float]:
    """The figures that gates may name. ``subset_drop`` is against the unpruned student (the teacher where there is none)."""
    if record["status"] == "skipped":
        return {}
    by_stage = {other["stage"]: other for other in records if other["status"] != "skipped"}
    teacher, parent = (
        by_stage.get("teacher"),
        next((other for other in by_stage.values() if other["sha256"] == record["parent"]), None),
    )
    unpruned = by_stage.get("distill", teacher)
    out: dict[str, float] = {name: record[name] for name in ("params", "macs", "size_bytes") if name in record}
    if "quality" in record:
        out["quality"] = record["quality"]["value"]
    out |= {f"subset.{name}": value for name, value in record["subsets"].items()}
    # A teacher's file of outputs may be of other samples, or of none, and has no parameters: then there is no ratio.
    theirs, ours = (teacher or {}).get("quality"), record.get("quality")
    if theirs and ours and theirs["n"] == ours["n"] and theirs["value"]:
        out["quality_ratio_to_teacher"] = ours["value"] / theirs["value"]
    if teacher and "params" in teacher:
        out["params_ratio_to_teacher"] = record["params"] / teacher["params"]
    if parent and "macs" in parent:
        out["macs_ratio_to_parent"] = record["macs"] / parent["macs"]
        out["params_ratio_to_parent"] = record["params"] / parent["params"]
    if unpruned:
        drops = {
            name: unpruned["subsets"][name] - value
            for name, value in record["subsets"].items()
            if name in unpruned["subsets"]
        }
        out |= {f"subset_drop.{name}": drop for name, drop in drops.items()}
    for name, value in record.get("latency", {}).items():
        if name.startswith("ratio") or name.endswith("_ms"):
            out[f"latency_{name}"] = value
    return out


def _controls(
    ran: list[Ran], dataset: samples.Dataset, recipe: Recipe, context: Context, out: Path
) -> list[dict[str, Any]]:
    """What each control says on the test split, read here for the first time."""
    artifact = next((done.artifact for done in ran if done.stage == "distill"), None)
    if artifact is None:
        return []
    return [
        _remembered(
            out,
            "gain",
            [artifact.sha256, dataset.sha256, recipe.seed, recipe.measure.bootstrap, name],
            context,
            f"measuring the gain over the control {name}",
            partial(_compare, artifact, name, compared, dataset, recipe, context),
        )
        for name, compared in artifact.meta["controls"].items()
    ]


def _compare(
    artifact: Artifact, name: str, compared: dict[str, Any], dataset: samples.Dataset, recipe: Recipe, context: Context
) -> dict[str, Any]:
    """One control's record: the students of both sides, rebuilt, shown what the control is about."""
    contract = contract_of(artifact)
    test = dataset.test.only(tuple(contract.modalities))
    test = test.shown(compared["shown"]) if compared["shown"] else test
    ours, theirs = (
        [
            predict_module(context.rebuild(artifact, f"{student}/{WEIGHTS}"), contract, test, test.present)
            for student in artifact.meta["students"]
            if student.rpartition("-")[0] == compared[side]
        ]
        for side in ("against", "students")
    )
    resamples = recipe.measure.bootstrap
    return gain(contract, ours, theirs, test, name=name, resamples=resamples, seed=recipe.seed)


def _write_bundle(
    engines: list[tuple[Ran, dict[str, Any]]], report: dict[str, Any], out: Path, say: Callable[[str], None]
) -> None:
    """What ships: the graph, engines for other targets beside it, preprocessing, labels and measured figures."""
    first = next(done.artifact for done, _ in engines if done.stage == f"export-{GRAPH_BACKEND}")
    assert first is not None
    fields = ("quality", "subsets", "latency", "params", "macs", "size_bytes", "notes")
    measured = {
        done.artifact.meta["target"]: {field: record[field] for field in fields if field in record}
        for done, record in engines
        if done.artifact
    }
    key = hash_json([[done.artifact and done.artifact.sha256 for done, _ in engines], measured, report["verdict"]])
    path = out / "bundle"
    if artifacts.unchanged(path, key, say):
        return
    with artifacts.creating(path, stage="bundle", key=key, parent=first.sha256) as (folder, meta):
        targets: dict[str, Any] = {}
        for done, _ in engines:
            assert done.artifact is not None
            targets[done.artifact.meta["target"]] = export.entry(done.artifact).record()
            for file, name in export.files(done.artifact):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(done.artifact.file(file), folder / name)
        meta |= {
            "name": report["recipe"]["name"],
            "contract": first.meta["contract"],
            "targets": targets,
            "figures": measured,
            "verdict": report["verdict"],
            "data": report["data"]["source"],
        }
