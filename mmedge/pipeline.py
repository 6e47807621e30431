"""Folds the stages of a recipe, resumes by content hash, measures all of them, and judges. The only dispatch."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable

import numpy as np

import mmedge
from mmedge import artifact as artifacts
from mmedge import gate
from mmedge.artifact import Artifact, hash_json, write_json
from mmedge.data import samples
from mmedge.data.source import load_attribute
from mmedge.errors import MismatchError, MissingDependency, MmedgeError, UsageError
from mmedge.measure.figures import figures
from mmedge.measure.gain import gain
from mmedge.measure.latency import one_sample, time_graphs
from mmedge.measure.quality import predict_module
from mmedge.models.load import WEIGHTS, contract_of
from mmedge.progress import Progress
from mmedge.recipe import Model, Recipe
from mmedge.runtime.targets import tensorrt
from mmedge.stages import distill, export, prune, quantize, train
from mmedge.training.context import Context

GRAPH = "model.onnx"
# What a stage's outcome may depend on, beside its own file.
_CODE = ("data", "models", "training", "graph", "measure", "runtime/preprocess.py", "runtime/targets", "spec.py", "stages/trained.py")


@dataclass(frozen=True)
class Ran:
    """One stage of a run. ``status``: ran, cached, or skipped (then there is no artifact, and ``note`` says why)."""

    stage: str
    artifact: Artifact | None
    status: str
    seconds: float
    note: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The report that was written, and the exit code that its gates ask for."""

    report: dict[str, Any]
    exit_code: int


def run(recipe: Recipe, out: Path, *, code: Path, progress: Progress, start: Path | None = None, only: str | None = None) -> Outcome:
    """Run a recipe's stages into ``out``, or ``only`` the one of that name (``export``: all exports), then report.

    ``start`` is an artifact to begin from instead of the stages that lead to it. ``code`` is where the recipe's own
    modules are imported from. Raises MmedgeError and its kinds; an interrupted call goes on where it stopped.
    """
    wanted = [stage for stage in recipe.stages if only is None or stage.partition("-")[0] == only]
    if not wanted:
        raise UsageError(f"the recipe has no section {only!r}", todo=f"it has {', '.join(recipe.stages)}")
    given = artifacts.read(start) if start else None
    _check_targets(recipe, wanted)
    dataset = samples.prepare(recipe, out, code=code, progress=progress)
    context = Context(recipe, dataset, out / ".work", code, progress)
    if given:
        _check_same_data(given, dataset)
    ran: list[Ran] = []
    for stage in _chain(recipe, wanted, given):
        if stage in wanted:
            ran.append(_run_stage(stage, ran, given, context, out))
        else:
            ran.append(_earlier(stage, given, context, out))
    return _conclude(recipe, dataset, [done for done in ran if done.artifact or done.stage in wanted], context, out)


def _chain(recipe: Recipe, wanted: list[str], given: Artifact | None) -> list[str]:
    """The stages to pass through: those up to the last wanted one, from the given artifact's on."""
    last = max(recipe.stages.index(stage) for stage in wanted)
    chain = [stage for stage in recipe.stages[: last + 1] if stage in wanted or not stage.startswith("export-")]
    if given:
        if given.stage not in recipe.stages or given.stage.startswith("export-"):
            raise UsageError(f"no stage of the recipe can start from an artifact of stage {given.stage!r}", where=str(given.path))
        first = recipe.stages.index(given.stage)
        if first >= last:
            raise UsageError(f"the artifact is of stage {given.stage!r}; {wanted[-1]} needs an earlier one", where=str(given.path))
        chain = [stage for stage in chain if recipe.stages.index(stage) >= first or stage == "teacher"]
    return chain


def _earlier(stage: str, given: Artifact | None, context: Context, out: Path) -> Ran:
    """An artifact that an earlier command wrote. The teacher may also stand beside the given artifact, or be absent."""
    if given and given.stage == stage:
        return Ran(stage, given, "cached", 0.0)
    places = [out / stage, *([given.path.parent / stage] if given else [])]
    found = next((place for place in places if (place / artifacts.MANIFEST).is_file()), None)
    if found is None:
        if given:
            return Ran(stage, None, "skipped", 0.0, f"no {stage} beside the artifact that the run starts from")
        raise UsageError(f"there is no {stage} artifact in {out}", todo=f"run mmedge {_VERBS.get(stage, stage)} first, or name an artifact with --from")
    earlier = artifacts.read(found)
    _check_same_data(earlier, context.dataset)
    return Ran(stage, earlier, "cached", 0.0)


_VERBS = {"teacher": "train"}


def _run_stage(stage: str, before: list[Ran], given: Artifact | None, context: Context, out: Path) -> Ran:
    recipe = context.recipe
    if given and given.stage == stage:
        return Ran(stage, given, "cached", 0.0)
    parent = next((done.artifact for done in reversed(before) if done.artifact and not done.stage.startswith("export-")), None)
    teacher = next((done.artifact for done in before if done.stage == "teacher"), None)
    call: Callable[..., Artifact]
    match stage.partition("-")[0]:
        case "teacher":
            call, config, parent = train.train, recipe.teacher, None
        case "distill":
            call, config = distill.distill, recipe.distill
        case "prune":
            call, config = prune.prune, (recipe.prune, recipe.distill)
        case "quantize":
            call, config = quantize.quantize, (recipe.quantize, recipe.measure)
        case _:
            name = stage.removeprefix("export-")
            call, config = partial(export.export, name=name), recipe.export.targets[name]  # type: ignore[index]
            if name in tensorrt.PACKAGES and not config.required:
                try:
                    tensorrt.module_of(name)
                except MissingDependency as error:
                    return Ran(stage, None, "skipped", 0.0, str(error).replace("\n ", ";"))
    own = getattr(recipe, stage) if stage in ("teacher", "distill", "prune", "quantize") else config
    assert own is not None
    key = hash_json(
        [stage, parent and parent.sha256, teacher and stage in ("distill", "prune") and teacher.sha256, _dumped(config), _dumped(recipe.data), recipe.seed]
        + [context.dataset.sha256, _code(stage), _user_code(own, context), _weights(own)]
    )
    target = out / stage
    if (target / artifacts.MANIFEST).is_file():
        cached = artifacts.read(target)
        if cached.key == key:
            context.progress.say(f"{stage}: unchanged, taken from {target}")
            return Ran(stage, cached, "cached", float(cached.meta.get("seconds", 0.0)))
    started = time.monotonic()
    context = Context(recipe, context.dataset, out / ".work" / f"{stage}-{key[:16]}", context.code, context.progress, teacher)
    made = call(parent, own, context, target, key)
    seconds = time.monotonic() - started
    shutil.rmtree(context.work, ignore_errors=True)  # only an interrupted stage needs it
    return Ran(stage, made, "ran", seconds)


def _dumped(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_dumped(item) for item in value]
    return value.model_dump(mode="json") if value is not None else None


def _code(stage: str) -> str:
    """Hash of the sources that a stage's outcome depends on."""
    return _code_hash(*_CODE, f"stages/{_VERBS.get(stage, stage.partition('-')[0])}.py")


def _code_hash(*names: str) -> str:
    root = Path(mmedge.__file__).parent
    files = [file for name in names for file in sorted((root / name).rglob("*.py") if (root / name).is_dir() else [root / name])]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _user_code(section: Any, context: Context) -> str | None:
    """Hash of the file that a user's factory comes from."""
    import inspect

    factory = getattr(getattr(section, "model", None), "factory", None)
    file = inspect.getsourcefile(load_attribute(factory, context.code)) if factory else None
    return artifacts.sha256_of(Path(file)) if file else None


def _weights(section: Any) -> str | None:
    weights = getattr(getattr(section, "model", None), "weights", None)
    return artifacts.sha256_of(weights) if weights and weights.is_file() else None


def _check_targets(recipe: Recipe, wanted: list[str]) -> None:
    """A target whose package is missing is told before anything is trained for it."""
    for name, options in recipe.export.targets.items():
        if name in tensorrt.PACKAGES and options.required and f"export-{name}" in wanted:
            tensorrt.module_of(name)


def _check_same_data(given: Artifact, dataset: samples.Dataset) -> None:
    """An artifact belongs to the recipe where its classes and preprocessing are the data's."""
    if "contract" not in given.meta:
        raise UsageError(f"an artifact of stage {given.stage!r} cannot be gone on from", where=str(given.path))
    theirs, ours = contract_of(given), dataset.contract
    differing = [name for name, spec in theirs.modalities.items() if ours.modalities.get(name) != spec]
    if theirs.task != ours.task or theirs.labels != ours.labels or differing:
        what = f"the modality {differing[0]!r}" if differing else "the classes"
        raise MismatchError(f"the artifact is of another recipe: {what} in it is not that of this recipe's data", where=str(given.path), todo="use its own recipe, or run the earlier stages again")


def _conclude(recipe: Recipe, dataset: samples.Dataset, ran: list[Ran], context: Context, out: Path) -> Outcome:
    """Measure every stage, judge it, write the bundle and the report."""
    records = [_record(done, dataset, recipe, context, out) for done in ran]
    _add_latency(ran, records, dataset, recipe, context, out)
    exit_codes = [_judge(record, records, recipe) for record in records]
    controls = _controls(ran, dataset, recipe, context, out)
    for record in records:
        if record["stage"] == "distill" and controls:
            exit_codes.append(_judge_gain(record, controls[0], recipe))
    report = {
        "schema": 1,
        "mmedge": mmedge.__version__,
        "recipe": recipe.resolved(),
        "seed": recipe.seed,
        "machine": machine(),
        "data": {"sha256": dataset.sha256, "source": dataset.source, "train": len(dataset.train), "validation": len(dataset.validation), "test": len(dataset.test)},
        "stages": records,
        "controls": controls,
        "verdict": "fail" if any(exit_codes) else "pass",
    }
    engines = [(done, record) for done, record in zip(ran, records) if done.stage.startswith("export-") and done.artifact]
    if any(done.stage == "export-onnxruntime-cpu" for done, _ in engines):
        _write_bundle(engines, report, out)
    write_json(out / "report.json", report)
    return Outcome(report, min((code for code in exit_codes if code), default=0))


def _record(done: Ran, dataset: samples.Dataset, recipe: Recipe, context: Context, out: Path) -> dict[str, Any]:
    if done.artifact is None:
        return {"stage": done.stage, "status": "skipped", "gates": [], "notes": [done.note]}
    artifact = done.artifact
    engine = artifact.file(export.ENGINE)
    graph = artifact.file(GRAPH)
    weights = engine if engine.is_file() else graph
    record: dict[str, Any] = {
        "stage": done.stage,
        "parent": artifact.parent,
        "artifact": Path(os.path.relpath(artifact.path, out)).as_posix(),
        "sha256": artifact.sha256,
        "params": artifact.meta["params"],
        "macs": artifact.meta["macs"],
        "size_bytes": weights.stat().st_size,
        "seconds": round(done.seconds, 2),
    }
    for field in ("precision", "candidates", "verification"):
        if field in artifact.meta:
            record[field] = artifact.meta[field]
    record |= _remembered(out, "figures", [artifact.sha256, dataset.sha256, recipe.seed, recipe.measure.bootstrap], context, f"measuring {done.stage}", lambda: figures(graph, contract_of(artifact), dataset, recipe.measure, recipe.seed))
    record |= {"gates": [], "status": done.status, "notes": list(artifact.meta["notes"])}
    return record


def _remembered(out: Path, what: str, key: list[Any], context: Context, saying: str, compute: Callable[[], Any]) -> Any:
    """A measurement that was taken before of the same things is not taken again."""
    path = out / ".work" / "measured" / f"{what}-{hash_json([key, _code_hash('measure', 'runtime/timing.py', 'runtime/targets')])[:24]}.json"
    if path.is_file():
        return json.loads(path.read_text())
    context.progress.say(saying)
    value = compute()
    write_json(path, value)
    return value


def _add_latency(ran: list[Ran], records: list[dict[str, Any]], dataset: samples.Dataset, recipe: Recipe, context: Context, out: Path) -> None:
    timed = {done.stage: done.artifact for done in ran if done.artifact and not done.artifact.file(export.ENGINE).is_file()}
    graphs = {stage: artifact.file(GRAPH) for stage, artifact in timed.items()}
    measure = recipe.measure
    key = [{stage: artifact.sha256 for stage, artifact in timed.items()}, _dumped(measure), machine()]
    inputs = one_sample(dataset.test, measure.batch)
    timings = _remembered(out, "latency", key, context, "measuring latency, all stages in turn", lambda: {stage: timing.record() for stage, timing in time_graphs(graphs, inputs, measure, context.progress).items()})
    before: str | None = None
    for record in records:
        stage = record["stage"]
        if stage in timings:
            timing = timings[stage]
            record["latency"] = {"target": "onnxruntime-cpu", "batch": measure.batch, "threads": measure.threads, **timing}
            if "teacher" in timings:
                record["latency"]["ratio_to_teacher"] = timing["p50_ms"] / timings["teacher"]["p50_ms"]
            if before:
                record["latency"]["ratio_to_parent"] = timing["p50_ms"] / timings[before]["p50_ms"]
            if timing["cv"] > 0.3:
                record["notes"].append(f"latency spread is wide (cv {timing['cv']:.2f}): the machine was busy; ratios hold, single figures may not")
            if not stage.startswith("export-"):
                before = stage
        elif record["status"] != "skipped":
            record["notes"].append("latency not measured: no device of the target here; quality is that of the ONNX graph the engine was built from")


def _judge(record: dict[str, Any], records: list[dict[str, Any]], recipe: Recipe) -> int:
    """Fill the record's gates; the exit code of the first kind that failed."""
    limits = {name: limit for name, limit in recipe.gates.get(record["stage"], {}).items() if not name.startswith("gain")}
    verdict = gate.judge(_gate_figures(record, records), limits)
    record["gates"] = [judged.record() for judged in verdict.gates]
    return verdict.exit_code


def _judge_gain(record: dict[str, Any], control: dict[str, Any], recipe: Recipe) -> int:
    limits = {name: limit for name, limit in recipe.gates.get("distill", {}).items() if name.startswith("gain")}
    verdict = gate.judge({"gain": control["gain"], "gain_ci95_low": control["gain_ci95"][0]}, limits)
    record["gates"] += [judged.record() for judged in verdict.gates]
    return verdict.exit_code


def _gate_figures(record: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, float]:
    """The figures that gates may name. ``subset_drop`` is against the unpruned student (the teacher where there is none)."""
    if record["status"] == "skipped":
        return {}
    by_stage = {other["stage"]: other for other in records if other["status"] != "skipped"}
    teacher, parent = by_stage.get("teacher"), next((other for other in by_stage.values() if other["sha256"] == record["parent"]), None)
    unpruned = by_stage.get("distill", teacher)
    out: dict[str, float] = {"quality": record["quality"]["value"], "params": record["params"], "macs": record["macs"], "size_bytes": record["size_bytes"]}
    out |= {f"subset.{name}": value for name, value in record["subsets"].items()}
    if teacher:
        out["quality_ratio_to_teacher"] = record["quality"]["value"] / teacher["quality"]["value"]
        out["params_ratio_to_teacher"] = record["params"] / teacher["params"]
    if parent:
        out["macs_ratio_to_parent"] = record["macs"] / parent["macs"]
    if unpruned:
        drops = {name: unpruned["subsets"][name] - value for name, value in record["subsets"].items() if name in unpruned["subsets"]}
        out |= {f"subset_drop.{name}": drop for name, drop in drops.items()}
    for name, value in record.get("latency", {}).items():
        if name.startswith("ratio") or name.endswith("_ms"):
            out[f"latency_{name}"] = value
    return out


def _controls(ran: list[Ran], dataset: samples.Dataset, recipe: Recipe, context: Context, out: Path) -> list[dict[str, Any]]:
    """The gain of distillation over its control, on the test split, read here for the first time."""
    artifact = next((done.artifact for done in ran if done.stage == "distill"), None)
    if artifact is None or not any(name.startswith("control") for name in artifact.meta["students"]):
        return []

    def compute() -> dict[str, Any]:
        contract = contract_of(artifact)
        test = dataset.test.only(tuple(contract.modalities))
        outputs: dict[str, list[np.ndarray]] = {"distilled": [], "control": []}
        for name in artifact.meta["students"]:
            kind, _, _ = name.partition("-")
            outputs[kind].append(predict_module(context.rebuild(artifact, f"{name}/{WEIGHTS}"), contract, test, test.present))
        return gain(contract, outputs["distilled"], outputs["control"], test, resamples=recipe.measure.bootstrap, seed=recipe.seed)

    return [_remembered(out, "gain", [artifact.sha256, dataset.sha256, recipe.seed, recipe.measure.bootstrap], context, "measuring the gain of distillation", compute)]


def _write_bundle(engines: list[tuple[Ran, dict[str, Any]]], report: dict[str, Any], out: Path) -> None:
    """What ships: the graph, engines for other targets beside it, preprocessing, labels and measured figures."""
    first = next(done.artifact for done, _ in engines if done.stage == "export-onnxruntime-cpu")
    assert first is not None
    fields = ("quality", "subsets", "latency", "params", "macs", "size_bytes", "notes")
    measured = {done.artifact.meta["target"]: {field: record[field] for field in fields if field in record} for done, record in engines if done.artifact}
    key = hash_json([[done.artifact and done.artifact.sha256 for done, _ in engines], measured, report["verdict"]])
    path = out / "bundle"
    if (path / artifacts.MANIFEST).is_file() and artifacts.read(path).key == key:
        return
    with artifacts.creating(path, stage="bundle", key=key, parent=first.sha256) as (folder, meta):
        shutil.copyfile(first.file(GRAPH), folder / GRAPH)
        targets: dict[str, Any] = {}
        for done, _ in engines:
            assert done.artifact is not None
            name = done.artifact.meta["target"]
            targets[name] = export.record(done.artifact)
            if "engine" in targets[name]:
                (folder / name).mkdir()
                for file in (GRAPH, export.ENGINE):
                    shutil.copyfile(done.artifact.file(file), folder / name / file)
        meta |= {"name": report["recipe"]["name"], "contract": first.meta["contract"], "targets": targets, "figures": measured, "verdict": report["verdict"], "data": report["data"]["source"]}


def machine() -> dict[str, Any]:
    """The machine that figures were taken on."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    import onnxruntime

    return {"cpu": model, "cores": os.cpu_count() or 1, "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(), "onnxruntime": onnxruntime.__version__}


def check_report(path: Path) -> dict[str, Any]:
    """Read a report.json that a run wrote."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("there is no report.json", where=str(path), todo="mmedge run RECIPE --out DIR writes one") from None
    except ValueError as error:
        raise MmedgeError(f"the report cannot be read: {error}", where=str(path)) from error
    if not isinstance(report, dict) or report.get("schema") != 1 or "stages" not in report:
        raise MmedgeError("this is not a report that mmedge reads", where=str(path))
    return report
