"""What candidates are made from and judged by: a graph, calibration inputs, a function that evaluates and one that times."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.errors import MmedgeError
from mmedge.gate import Policy
from mmedge.measure.budget import WHOLE, Losses, split_outputs
from mmedge.measure.latency import one_sample, time_graphs
from mmedge.measure.quality import (
    Outputs,
    Predict,
    bounds,
    graph_predictor,
    predict_graph,
    rows_of,
    score,
    subset_scores,
)
from mmedge.profiling.timing import Timing
from mmedge.progress import Progress
from mmedge.recipe import Measure

# Rows that sensitivity is measured on, for each set of inputs, and the seconds that they may take: a large network gets
# fewer, but never less than the second figure.
_ROWS, _FEWEST_ROWS, _PASS_SECONDS = 200, 24, 4.0


@dataclass(frozen=True)
class Scored:
    """A graph's figures on the split that decides: ``quality`` (more is better) over ``n`` labelled samples.

    ``subsets``: the same of every subset of the inputs, where there are any. ``outputs``: what the figure is of, as
    ``Trial.losses`` takes it. ``ci95``: the figure's 95 % interval.
    """

    quality: float
    subsets: dict[str, float]
    n: int
    outputs: Any = field(repr=False, compare=False)
    ci95: tuple[float, float] | None = None


@dataclass(frozen=True)
class Trial:
    """What candidates are made from and judged by.

    ``graph``: FP32. ``calibration``: {input: [1, *shape]} of each sample, none of the test split. ``evaluate(graph)``
    scores on the split that decides; ``outputs(graph, optimize)`` gives float [N, outputs] of some of its samples, with
    and without the runtime's fusions, as they are (WHOLE) and with each modality alone; ``losses(before, after, tail)`` gives what the second of two ``Scored.outputs``
    loses, with bounds that each leave out ``tail``; ``policy`` and ``confidence``: how that is held against the budget;
    ``time({name: graph})`` times all in one interleaved run, ``energy`` gives their millijoules a call or why it cannot;
    None where nobody asks. ``work``: a folder for what an interrupted search
    has measured. ``elsewhere``: whether a target other than ONNX Runtime CPU may take INT8.
    ``unfolded``: the graph before it was folded, which is quantized where ``graph`` cannot be. ``required``: whether
    somebody asked for INT8 by name; that it does not run in 8 bits is then an error, else that it is dropped.
    """

    graph: Path
    calibration: list[dict[str, np.ndarray]]
    evaluate: Callable[[Path], Scored]
    outputs: Callable[[Path, bool], Mapping[str, np.ndarray]]
    losses: Callable[[Any, Any, float], Losses]
    time: Callable[[Mapping[str, Path]], dict[str, Timing]]
    progress: Progress
    work: Path
    elsewhere: bool = True
    unfolded: Path | None = None
    required: bool = False
    energy: Callable[[Mapping[str, Path]], dict[str, float] | str] | None = None
    policy: Policy = "strict"
    confidence: float = 0.95


def evaluator(contract: Contract, samples: Samples) -> Callable[[Path], Scored]:
    """``Trial.evaluate`` over labelled samples, on ONNX Runtime as it will run: with its fusions."""

    def evaluate(graph: Path) -> Scored:
        predict = _finite(graph_predictor(onnxruntime_cpu.session(graph), contract, samples))
        quality = score(contract, predict(samples.present), samples.targets)
        subsets, outputs = subset_scores(contract, samples, predict), split_outputs(contract, samples, predict)
        known = samples.known_rows(contract.heads)
        whole, targets = rows_of(predict(samples.present), known), rows_of(samples.targets, known)
        ends = bounds(contract, whole, targets, samples.groups[known])
        return Scored(quality, subsets, int(samples.labelled.sum()), outputs, (ends.low, ends.high))

    return evaluate


def _finite(predict: Predict) -> Predict:
    """``predict``, which raises MmedgeError for outputs that no figure can be made of."""

    def checked(present: np.ndarray) -> Outputs:
        outputs = predict(present)
        wrong = np.any([~np.isfinite(output).all(axis=-1) for output in outputs.values()], axis=0)
        if wrong.any():
            raise MmedgeError(f"its output holds NaN or infinity for {wrong.sum()} samples")
        return outputs

    return checked


def outputs_of(graph: Path, contract: Contract, samples: Samples) -> Callable[[Path, bool], dict[str, np.ndarray]]:
    """``Trial.outputs``: up to 200 rows with what they have, and the same rows with each modality alone.

    ``graph`` (FP32) is timed: a network that takes 0.1 s a sample would take minutes for each of its layers.
    """
    run, sample = onnxruntime_cpu.session(graph), one_sample(samples, 1)
    run(sample)
    began = time.monotonic()
    run(sample)
    affordable = int(_PASS_SECONDS / max(time.monotonic() - began, 1e-6) / (1 + len(contract.modalities)))
    count = min(max(affordable, _FEWEST_ROWS), _ROWS, len(samples))
    few = samples.taken(np.linspace(0, len(samples) - 1, count).astype(np.int64))
    alone = contract.modalities if len(contract.modalities) > 1 else ()
    presents = {WHOLE: few.present, **{name: few.present_of([name]) for name in alone}}

    def outputs(graph: Path, optimize: bool) -> dict[str, np.ndarray]:
        run = onnxruntime_cpu.session(graph, optimize=optimize)
        each = {of: predict_graph(run, contract, few, present) for of, present in presents.items()}
        return {of: np.concatenate(list(heads.values()), axis=1) for of, heads in each.items()}

    return outputs


def joined(outputs: Mapping[str, np.ndarray], missed: Collection[str] = ()) -> np.ndarray:
    """float [N, outputs] of all of ``Trial.outputs``, or of the modalities whose subsets alone are ``missed``.

    What a network loses on one modality alone is not mended by layers that err on another's samples.
    """
    parts = {part for subset in missed for part in subset.split("+")}
    chosen = outputs.keys() if WHOLE in missed or not parts & outputs.keys() else parts
    return np.concatenate([x for of, x in outputs.items() if of in chosen])


def timer(samples: Samples, measure: Measure, progress: Progress) -> Callable[[Mapping[str, Path]], dict[str, Timing]]:
    """``Trial.time`` on the first of the samples; it is asked twice, for half of the runs each."""
    half = measure.model_copy(update={"runs": -(-measure.runs // 2)})

    def timed(graphs: Mapping[str, Path]) -> dict[str, Timing]:
        taken = time_graphs(graphs, one_sample(samples, half.batch), half, progress)
        return {name: taken.timing(name) for name in graphs}

    return timed
