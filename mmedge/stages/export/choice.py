"""Which of the parent's candidates a target gets: the fastest one on the target itself, or the recipe's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mmedge.artifact import Artifact
from mmedge.backends import onnxruntime_cpu, tensorrt
from mmedge.backends.session import Session
from mmedge.backends.sessions import opened
from mmedge.errors import MmedgeError
from mmedge.graph import precision as precisions
from mmedge.measure.latency import one_sample, time_sessions
from mmedge.models.load import contract_of
from mmedge.recipe import TargetOptions, precision_of
from mmedge.stages.export import engines
from mmedge.stages.export.verification import GRAPH, reference
from mmedge.training.context import Context

# Another precision, or a subset's engine, must be faster by this share to be taken.
NOISE = 0.05
# TensorRT computes in float where weights alone are INT8: nobody asks for that with ``int8``.
_WEIGHTS_ALONE = "int8-weights"


def measured(
    parent: Artifact, config: TargetOptions, context: Context, folder: Path, name: str, notes: list[str]
) -> tuple[str, dict[str, Any]]:
    """The fastest of the parent's kept candidates on the target itself, and its latency, in one interleaved run with the
    teacher and the parent on ONNX Runtime."""
    measure = context.recipe.measure
    work = folder / ".timed"
    work.mkdir()
    kept = [row["precision"] for row in parent.meta.get("candidates", []) if row["kept"]] or ["fp32"]
    if name in tensorrt.PACKAGES:
        kept = [each for each in kept if each != _WEIGHTS_ALONE] or ["fp32"]
    if config.precision is not None:
        kept = [each for each in kept if precision_of(each) == config.precision] or [config.precision]
    sessions: dict[str, Session] = {}
    for each in list(kept):
        try:
            sessions[f"{name} {each}"] = _candidate(parent, each, config, context, name, work / each)
        except MmedgeError as error:
            if len(kept) == 1:
                raise
            kept.remove(each)
            notes.append(f"{each}: not built for {name}: {error.what}")
    sessions["parent"] = onnxruntime_cpu.session(parent.file(GRAPH), threads=measure.threads)
    if context.teacher is not None:
        sessions["teacher"] = onnxruntime_cpu.session(context.teacher.file(GRAPH), threads=measure.threads)
    timings = time_sessions(sessions, one_sample(context.dataset.test, measure.batch), measure, context.progress)
    shutil.rmtree(work)
    p50 = {precision: timings[f"{name} {precision}"].p50_ms for precision in kept}
    best = min(kept, key=lambda precision: p50[precision])
    if "fp32" in kept and p50[best] > p50["fp32"] * (1 - NOISE):
        best = "fp32"
    for precision in kept:
        if precision != best:
            notes.append(f"{precision}: {p50[precision] / p50[best]:.2f} x the latency of {best} on {name}")
    timing = timings[f"{name} {best}"]
    latency = {"target": name, "batch": measure.batch, "threads": measure.threads, **timing.record()}
    for other in ("teacher", "parent"):
        if other in timings:
            latency[f"ratio_to_{other}"] = timing.p50_ms / timings[other].p50_ms
    return best, latency


def _candidate(
    parent: Artifact, precision: str, config: TargetOptions, context: Context, name: str, folder: Path
) -> Session:
    """A candidate as it would ship: its engine, where the target has one."""
    folder.mkdir()
    taken = choose(parent, precision, name, folder / GRAPH, [], measured=True)
    built = engines.build(folder / GRAPH, contract_of(parent), config, context, name, precision_of(taken), [])
    file = folder / (built["file"] if built else GRAPH)
    return opened(file, name, threads=context.recipe.measure.threads, host_code=True)


def choose(parent: Artifact, wanted: str | None, name: str, graph: Path, notes: list[str], *, measured: bool) -> str:
    """Write the graph to build from and return the candidate's name; ``notes`` gets what a reader must know of the choice.

    On a target that was measured, the fastest candidate that was kept; elsewhere the first of the recipe's precision.
    """
    candidates = {row["precision"]: row for row in parent.meta.get("candidates", [])}
    if name == "onnxruntime-cpu":
        chosen = wanted or parent.meta.get("precision", "fp32")
        if wanted is not None:
            notes.append(f"{chosen} as the recipe asks, not by measurement")
    else:
        chosen = wanted or "fp16"
        if not measured:
            notes.append(f"{chosen} by the recipe, not measured: this machine cannot run the target")
    chosen = _of_precision(chosen, candidates, name)
    if chosen in candidates and not candidates[chosen]["kept"]:
        notes.append(f"{chosen} is outside the accuracy budget: {candidates[chosen]['why']}")
    source = parent.file(f"{chosen}.onnx") if chosen in candidates else None
    if chosen == "int8" and source is None:
        raise MmedgeError(
            f"export to {name} asks for int8, which the quantize stage did not make",
            where=f"export.targets.{name}.precision",
            todo="add int8 to quantize.candidates",
        )
    if precision_of(chosen) == "int8" and name in tensorrt.PACKAGES:
        assert source is not None
        count = precisions.to_symmetric(source, graph)
        notes.append(f"{count} activations rewritten from uint8 to symmetric int8, as {name} takes them")
    elif source is not None:
        shutil.copyfile(source, graph)
    elif chosen == "fp16":
        precisions.to_fp16(reference(parent), graph)
    else:
        shutil.copyfile(reference(parent), graph)
    return chosen


def _of_precision(wanted: str, candidates: dict[str, dict[str, Any]], name: str) -> str:
    """The candidate to take where a recipe names its precision: the first that is kept, else the one that loses least."""
    if wanted in candidates and candidates[wanted]["kept"]:
        return wanted
    rows = [
        row
        for row in candidates.values()
        if precision_of(row["precision"]) == wanted
        and not (name in tensorrt.PACKAGES and row["precision"] == _WEIGHTS_ALONE)
    ]
    kept = [row for row in rows if row["kept"]]
    best = kept[:1] or sorted(rows, key=lambda row: -row["quality_validation"])[:1]
    return str(best[0]["precision"]) if best else wanted
