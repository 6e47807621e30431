"""Candidate precisions of a graph: made, evaluated, timed in one interleaved run, and kept or dropped with the reason.

Nothing here knows of training: a graph, calibration inputs, a function that evaluates and one that times are enough.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.data.samples import Samples
from mmedge.errors import MismatchError
from mmedge.graph import precision
from mmedge.measure.latency import one_sample, time_graphs
from mmedge.measure.quality import graph_predictor, score, subset_scores
from mmedge.progress import Progress
from mmedge.recipe import Measure, Quantize
from mmedge.runtime.targets import onnxruntime_cpu
from mmedge.runtime.timing import Timing
from mmedge.spec import Contract
from mmedge.stages.quantize import ptq

# A candidate must beat FP32's median latency by this share to take its place.
_NOISE = 0.03


@dataclass(frozen=True)
class Scored:
    """A graph on the split that decides: ``quality`` (more is better), the same of every subset of inputs where there

    are any, over ``n`` labelled samples; ``outputs``: float [N, outputs] of all samples with what they have.
    """

    quality: float
    subsets: dict[str, float]
    n: int
    outputs: np.ndarray


@dataclass(frozen=True)
class Task:
    """What candidates are made from and judged by.

    ``graph``: FP32. ``calibration``: {input: [1, *shape]} of each sample, none of the test split. ``evaluate(graph)``
    computes on the split that decides; ``time({name: graph})`` times all of them in one interleaved run.
    """

    graph: Path
    calibration: list[dict[str, np.ndarray]]
    evaluate: Callable[[Path], Scored]
    time: Callable[[Mapping[str, Path]], dict[str, Timing]]
    progress: Progress


def evaluator(contract: Contract, samples: Samples) -> Callable[[Path], Scored]:
    """``Task.evaluate`` over labelled samples, on ONNX Runtime as it will run: with its fusions."""

    def evaluate(graph: Path) -> Scored:
        predict = graph_predictor(onnxruntime_cpu.session(graph), contract, samples)
        outputs = predict(samples.present)
        return Scored(
            score(contract, outputs, samples.targets),
            subset_scores(contract, samples, predict),
            int(samples.labelled.sum()),
            outputs,
        )

    return evaluate


def timer(samples: Samples, measure: Measure, progress: Progress) -> Callable[[Mapping[str, Path]], dict[str, Timing]]:
    """``Task.time`` on the first of the samples."""
    return lambda graphs: time_graphs(graphs, one_sample(samples, measure.batch), measure, progress)


def make_and_judge(task: Task, config: Quantize, folder: Path) -> list[dict[str, Any]]:
    """Write ``<candidate>.onnx`` into ``folder`` for each that the recipe names, and return the table of ``judge``."""
    graphs: dict[str, Path] = {}
    for name in config.candidates:
        task.progress.say(f"quantize: making the {name} candidate")
        graphs[name] = folder / f"{name}.onnx"
        make(name, task, graphs[name])
    return judge(graphs, task, config)


def make(name: str, task: Task, target: Path) -> None:
    """Write one candidate."""
    match name:
        case "fp32":
            shutil.copyfile(task.graph, target)
        case "fp16":
            precision.to_fp16(task.graph, target)
        case "int8":
            ptq.int8(task.graph, target, task.calibration)


def judge(graphs: Mapping[str, Path], task: Task, config: Quantize) -> list[dict[str, Any]]:
    """One row a candidate: its quality, its latency in one interleaved run, whether it is kept and why.

    ``graphs`` must hold ``fp32``, against which the others are judged. Raises MismatchError where what is called INT8
    runs no 8-bit kernel.
    """
    timings = task.time(graphs)
    table: list[dict[str, Any]] = []
    for name, graph in graphs.items():
        scored = task.evaluate(graph)
        row: dict[str, Any] = {
            "precision": name,
            "quality_validation": scored.quality,
            "subsets_validation": scored.subsets,
            "n": scored.n,
            "p50_ms": timings[name].p50_ms,
            "size_bytes": graph.stat().st_size,
        }
        if name.startswith("int8"):
            row["int8_kernels"] = precision.int8_kernels(graph, graph.parent)
            if not row["int8_kernels"]:
                raise MismatchError(
                    "INT8 was asked for and ONNX Runtime runs no 8-bit kernel",
                    where="quantize.candidates",
                    todo="leave int8 out of quantize.candidates for this model",
                )
        table.append(row)
    reference = next(row for row in table if row["precision"] == "fp32")
    for row in table:
        _verdict(row, reference, config)
    return table


def _verdict(row: dict[str, Any], reference: dict[str, Any], config: Quantize) -> None:
    row["ratio_to_fp32"] = row["p50_ms"] / reference["p50_ms"]
    drop = reference["quality_validation"] - row["quality_validation"]
    drops = {name: reference["subsets_validation"][name] - value for name, value in row["subsets_validation"].items()}
    worst = max(drops, key=lambda name: drops[name], default="")
    row["kept"] = drop <= config.max_drop and (not drops or drops[worst] <= config.max_subset_drop)
    speed = f"{row['ratio_to_fp32']:.2f} x the latency of fp32"
    if not row["kept"]:
        row["why"] = (
            f"dropped: loses {drop:.3f} on validation (worst subset {worst}: {drops.get(worst, 0):.3f}), {speed}"
        )
    else:
        row["why"] = f"kept: loses {max(drop, 0):.3f} on validation, {speed}"


def fastest_kept(table: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest candidate inside the budget; FP32 stays unless another is faster by more than timing noise."""
    best = min((row for row in table if row["kept"]), key=lambda row: row["p50_ms"])
    return best if best["ratio_to_fp32"] < 1 - _NOISE else next(row for row in table if row["precision"] == "fp32")
