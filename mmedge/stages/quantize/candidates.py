"""Candidate precisions of a graph: made, evaluated, timed in one interleaved run, and kept or dropped with the reason.

Nothing here knows of training: a graph, calibration inputs, a function that evaluates and one that times are enough.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.data.store.samples import Samples
from mmedge.errors import MismatchError, MissingDependency, MmedgeError, UsageError, first_line
from mmedge.graph import fusion, precision, qdq
from mmedge.measure.latency import one_sample, time_graphs
from mmedge.measure.quality import Outputs, Predict, graph_predictor, predict_graph, score, subset_scores
from mmedge.profiling.timing import Timing
from mmedge.progress import Progress
from mmedge.recipe import Candidate, Measure, Quantize, computes_int8
from mmedge.spec import Contract
from mmedge.stages.quantize import mixed, ptq

# A candidate must beat FP32's median latency by this share to take its place.
NOISE = 0.05
# Rows that sensitivity is measured on, for each set of inputs, and the seconds that they may take: a large network gets
# fewer, but never less than the second figure.
_ROWS, _FEWEST_ROWS, _PASS_SECONDS = 200, 24, 4.0
# Share of the outputs' power that fused kernels may differ by from the same graph run node by node.
_SATURATION = 0.01


@dataclass(frozen=True)
class Scored:
    """A graph's figures on the split that decides: ``quality`` (more is better) over ``n`` labelled samples.

    ``subsets``: the same of every subset of the inputs, where there are any. ``outputs``: what the figure is of, as
    ``loss_ci95`` takes it.
    """

    quality: float
    subsets: dict[str, float]
    n: int
    outputs: Any = field(repr=False, compare=False)


@dataclass(frozen=True)
class Trial:
    """What candidates are made from and judged by.

    ``graph``: FP32. ``calibration``: {input: [1, *shape]} of each sample, none of the test split. ``evaluate(graph)``
    scores on the split that decides; ``outputs(graph, optimize)`` gives float [N, outputs] of some of its samples, with
    and without the runtime's fusions; ``loss_ci95`` gives the interval of what the second of two ``Scored.outputs``
    loses; ``time({name: graph})`` times all in one interleaved run. ``work``: a folder for what an interrupted search
    has measured. ``elsewhere``: whether a target other than ONNX Runtime CPU may take INT8.
    ``unfolded``: the graph before it was folded, which is quantized where ``graph`` cannot be. ``asked``: whether
    somebody asked for INT8 by name; that it does not run in 8 bits is then an error, else that it is dropped.
    """

    graph: Path
    calibration: list[dict[str, np.ndarray]]
    evaluate: Callable[[Path], Scored]
    outputs: Callable[[Path, bool], np.ndarray]
    loss_ci95: Callable[[Any, Any], tuple[float, float]]
    time: Callable[[Mapping[str, Path]], dict[str, Timing]]
    progress: Progress
    work: Path
    elsewhere: bool = True
    unfolded: Path | None = None
    asked: bool = False


@dataclass
class Table:
    """What came of the candidates: a row each, what was not made and why, and the measurements on the way.

    ``source``: what INT8 was made from, where that is not the trial's graph. Of each graph its ``scores``, and of those that compute in 8 bits ``facts``, what ``measured_facts`` gives; each
    once.
    """

    graphs: dict[str, Path] = field(default_factory=dict)
    scores: dict[str, Scored] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    fusion_points: list[dict[str, Any]] = field(default_factory=list)
    sensitivity: dict[str, Any] | None = None
    source: Path | None = None

    def over(self, name: str, config: Quantize) -> float:
        """By how much a candidate misses the budget: 0 or less is inside it."""
        return over(self.scores[name], self.scores["fp32"], config)

    def best_static(self, config: Quantize) -> str | None:
        """The candidate with quantized activations everywhere that loses least; None where there is none."""
        return min(filter(is_static, self.graphs), key=lambda name: self.over(name, config), default=None)


def evaluator(contract: Contract, samples: Samples) -> Callable[[Path], Scored]:
    """``Trial.evaluate`` over labelled samples, on ONNX Runtime as it will run: with its fusions."""

    def evaluate(graph: Path) -> Scored:
        predict = _finite(graph_predictor(onnxruntime_cpu.session(graph), contract, samples))
        output = predict(samples.present)
        quality = score(contract, output, samples.targets)
        return Scored(quality, subset_scores(contract, samples, predict), int(samples.labelled.sum()), output)

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


def outputs_of(graph: Path, contract: Contract, samples: Samples) -> Callable[[Path, bool], np.ndarray]:
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
    presents = [few.present, *(few.present_of([name]) for name in alone)]

    def outputs(graph: Path, optimize: bool) -> np.ndarray:
        run = onnxruntime_cpu.session(graph, optimize=optimize)
        each = [predict_graph(run, contract, few, present) for present in presents]
        return np.concatenate([np.concatenate(list(given.values()), axis=1) for given in each])

    return outputs


def timer(samples: Samples, measure: Measure, progress: Progress) -> Callable[[Mapping[str, Path]], dict[str, Timing]]:
    """``Trial.time`` on the first of the samples; it is asked twice, for half of the runs each."""
    half = measure.model_copy(update={"runs": -(-measure.runs // 2)})

    def timed(graphs: Mapping[str, Path]) -> dict[str, Timing]:
        taken = time_graphs(graphs, one_sample(samples, half.batch), half, progress)
        return {name: taken.timing(name) for name in graphs}

    return timed


def make_and_judge(trial: Trial, config: Quantize, folder: Path) -> Table:
    """Write ``<candidate>.onnx`` into ``folder`` for each that the recipe names, and for its fallbacks while no INT8
    candidate is inside the budget; judge them all.

    One that cannot be made or run is told in ``absent``, with the reason. Raises UsageError for an ignored layer that
    does not exist, MismatchError where INT8 kernels are not what was asked for.
    """
    table = Table()

    def add(name: Candidate) -> None:
        trial.progress.say(f"quantize: making the {name} candidate")
        try:
            _make(name, trial, config, folder / f"{name}.onnx", table)
            table.scores[name] = trial.evaluate(folder / f"{name}.onnx")
        except (UsageError, MissingDependency, OSError):  # of the recipe or the machine, whatever the candidate is
            raise
        except (
            Exception
        ) as error:  # whatever a library behind it raises is why this candidate lost, never the run's end
            if name == "fp32" or name == config.require:
                raise
            table.absent[name] = reason(error)
            (folder / f"{name}.onnx").unlink(missing_ok=True)
            return
        table.graphs[name] = folder / f"{name}.onnx"

    for name in sorted(config.candidates, key=lambda name: (name != "fp32", name == "int8-mixed")):
        add(name)
    if "int8" in table.graphs:
        missed = all(table.over(name, config) > 0 for name in table.graphs if computes_int8(name))
        for fallback in _fallbacks(trial, config, table) if missed else ():
            if fallback not in config.candidates:
                add(fallback)
            if fallback in table.scores and table.over(fallback, config) <= 0:
                break
    judge(table, trial, config)
    return table


def _fallbacks(trial: Trial, config: Quantize, table: Table) -> tuple[Candidate, ...]:
    """Those that can help this graph here: each costs seconds, or on a large network minutes."""
    import onnx

    fallbacks = list(config.fallbacks)
    if measured_facts("int8", table, trial)["saturation"] <= _SATURATION and "int8-narrow" in fallbacks:
        fallbacks.remove("int8-narrow")
    kinds = {node.op_type for node in onnx.load(trial.graph, load_external_data=False).graph.node}
    if not kinds & {"Softmax", "LayerNormalization"} and "int8-smooth" in fallbacks:
        fallbacks.remove("int8-smooth")
    if fallbacks and not trial.elsewhere and config.require != "int8":
        timings = trial.time({name: table.graphs[name] for name in ("fp32", "int8")})
        ratio = timings["int8"].p50_ms / timings["fp32"].p50_ms
        if ratio > 1 - NOISE:
            table.notes.append(f"no variant of int8 was tried: it takes {ratio:.2f} x the time of fp32 here")
            return ()
    return tuple(fallbacks)


def saturation(trial: Trial, graph: Path) -> float:
    """How far a Q/DQ graph's outputs with the runtime's fusions are from those without, as a share of their power."""
    return mixed.distance(trial.outputs(graph, False), trial.outputs(graph, True))


def _make(name: str, trial: Trial, config: Quantize, target: Path, table: Table) -> None:
    """Write one candidate, or raise MmedgeError with the reason why there is none."""
    import onnx

    match name:
        case "fp32":
            shutil.copyfile(trial.graph, target)
        case "fp16":
            precision.to_fp16(trial.graph, target)
        case "bf16":
            raise MmedgeError(
                "ONNX Runtime has no bfloat16 kernels for a CPU, and ONNX no bfloat16 Conv before opset 22"
            )
        case "int8-weights":
            precision.weights_only(trial.graph, target)
        case "int8-mixed":
            base = table.best_static(config)
            if base is None:
                raise MmedgeError("it starts from an int8 candidate, and there is none")
            given = mixed.Search(
                table.graphs[base],
                table.source or trial.graph,
                outputs=lambda graph: trial.outputs(graph, True),
                overshoot=lambda graph: over(trial.evaluate(graph), table.scores["fp32"], config),
                progress=trial.progress,
                seconds=config.search_seconds,
                cache=trial.work / "sensitivity",
            )
            table.sensitivity = mixed.search(given, target) | {"base": base}
            if not table.sensitivity["found"]:
                raise MmedgeError(f"no mix of INT8 and FP32 was found: {table.sensitivity['said']}")
        case _:
            source = table.source or trial.graph
            try:
                ptq.int8(source, target, trial.calibration, name)
            except MmedgeError:
                if trial.unfolded is None or source == trial.unfolded:
                    raise
                source = trial.unfolded
                ptq.int8(source, target, trial.calibration, name)
                table.source = source
            if config.ignore:
                model = onnx.load(target)
                names = qdq.named(config.ignore, qdq.layers(model), where="quantize.ignore")
                onnx.save(qdq.restored(model, onnx.load(source), names), target)
            fusion.widen_few(target, source, trial.calibration)
            points = fusion.keep_apart(target, source, trial.calibration)
            table.fusion_points = table.fusion_points or points


def is_static(name: str) -> bool:
    """Whether a candidate has quantized activations that the search may take back."""
    return computes_int8(name) and name != "int8-mixed"


def over(scored: Scored, reference: Scored, config: Quantize) -> float:
    """By how much a candidate misses the budget: 0 or less is inside it."""
    drops = [reference.subsets[name] - value for name, value in scored.subsets.items()]
    # Differences of accuracies are whole samples: what floating point adds to them must not decide.
    return (
        max(
            reference.quality - scored.quality - config.max_drop,
            *(drop - config.max_subset_drop for drop in drops),
            -1.0,
        )
        - 1e-9
    )


def _latencies(trial: Trial, graphs: Mapping[str, Path]) -> dict[str, tuple[float, float]]:
    """{name: (latency over FP32's, median milliseconds)}, of two interleaved runs that in which it was slower.

    The sessions are opened anew, in the other order: two of one graph can differ by 3 % by where they lie in memory.
    """
    runs = [trial.time(graphs), trial.time(dict(reversed(list(graphs.items()))))]
    return {name: max((run[name].p50_ms / run["fp32"].p50_ms, run[name].p50_ms) for run in runs) for name in graphs}


def judge(table: Table, trial: Trial, config: Quantize) -> None:
    """Give the table one row a candidate: its quality, its latency (see ``_latencies``), whether it is kept and why.

    ``graphs`` must hold ``fp32``, against which the others are judged. Raises MismatchError where INT8 was asked for
    and ONNX Runtime runs no 8-bit kernel of it at all.
    """
    latencies, table.rows = _latencies(trial, table.graphs), []
    for name, graph in table.graphs.items():
        scored, reference = table.scores[name], table.scores["fp32"]
        row: dict[str, Any] = {
            "precision": name,
            "quality_validation": scored.quality,
            "subsets_validation": scored.subsets,
            "n": scored.n,
            "drop": reference.quality - scored.quality,
            "drop_ci95": list(trial.loss_ci95(reference.outputs, scored.outputs)),
            "p50_ms": latencies[name][1],
            "ratio_to_fp32": latencies[name][0],
            "size_bytes": graph.stat().st_size,
            "kept": table.over(name, config) <= 0,
        }
        row["why"] = _why(row, reference)
        if computes_int8(name):
            try:
                row |= measured_facts(name, table, trial)
            except Exception as error:  # ONNX Runtime's and onnx's share no base class
                if trial.asked:
                    raise
                row |= {"kept": False, "why": f"dropped: what runs in 8 bits cannot be proved: {reason(error)}"}
                table.rows.append(row)
                continue
            if not row["int8_kernels"]:
                if name == "int8" and trial.asked:
                    raise MismatchError(
                        "INT8 was asked for and ONNX Runtime runs no 8-bit kernel",
                        where="quantize.candidates",
                        todo="leave int8 out of quantize.candidates and quantize.require for this model",
                    )
                row |= {"kept": False, "why": "dropped: ONNX Runtime runs no 8-bit kernel of it"}
            elif row["int8_layers"]["unexplained"] and not trial.asked:
                floats = ", ".join(row["int8_layers"]["unexplained"])
                row |= {"kept": False, "why": f"dropped: quantized layers run in float on ONNX Runtime: {floats}"}
        table.rows.append(row)


def reason(error: Exception) -> str:
    """Why a candidate was not made, in one line."""
    return error.what if isinstance(error, MmedgeError) else f"{type(error).__name__}: {first_line(error)}"


def add_candidate(name: str, graph: Path, table: Table, trial: Trial, config: Quantize) -> None:
    """Judge one more candidate, that was made elsewhere; all are timed again, in one interleaved run."""
    table.graphs[name], table.scores[name] = graph, trial.evaluate(graph)
    judge(table, trial, config)


def measured_facts(name: str, table: Table, trial: Trial) -> dict[str, Any]:
    """What ONNX Runtime makes of a candidate that computes in 8 bits: ``int8_kernels``, ``int8_layers``, ``saturation``.

    The table keeps it, and gets a note where sums saturate.
    """
    if name not in table.facts:
        graph = table.graphs[name]
        found = table.facts[name] = proved(graph) | {"saturation": saturation(trial, graph)}
        if found["saturation"] > _SATURATION:
            table.notes.append(
                f"{name}: ONNX Runtime's fused kernels differ from the graph run node by node by {found['saturation']:.1%} "
                "of the outputs' power: sums saturate on a CPU without VNNI; other targets' need not"
            )
    return table.facts[name]


def proved(graph: Path) -> dict[str, Any]:
    """``int8_kernels`` and ``int8_layers`` of a Q/DQ graph, from the graph that ONNX Runtime really runs."""
    optimized = precision.optimized(graph)
    return {
        "int8_kernels": precision.int8_kernels(optimized),
        "int8_layers": qdq.prove(graph, optimized).record(),
    }


def check_proof(row: dict[str, Any]) -> None:
    """Raise MismatchError where a candidate that is taken has INT8 layers that run in float for no known reason."""
    unexplained = row.get("int8_layers", {}).get("unexplained", [])
    if unexplained:
        raise MismatchError(
            f"{row['precision']}: quantized layers run in float on ONNX Runtime: {', '.join(unexplained)}",
            where="quantize.candidates",
            todo=f"declare them: quantize.ignore: [{', '.join(unexplained)}]",
        )


def _why(row: dict[str, Any], reference: Scored) -> str:
    drop, (low, high) = row["drop"], row["drop_ci95"]
    drops = {name: reference.subsets[name] - value for name, value in row["subsets_validation"].items()}
    worst = max(drops, key=lambda name: drops[name], default="")
    speed = f"{row['ratio_to_fp32']:.2f} x the latency of fp32"
    if not row["kept"]:
        of_worst = f" (worst subset {worst}: {drops[worst]:.3f})" if worst else ""
        return f"dropped: loses {drop:.3f} [{low:.3f}, {high:.3f}] on validation{of_worst}, {speed}"
    lost = f"loses {max(drop, 0):.3f} [{low:.3f}, {high:.3f}] on validation, " if row["precision"] != "fp32" else ""
    return f"kept: {lost}{speed}"


def fastest_kept(table: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest candidate inside the budget; FP32 stays unless another is faster by more than timing noise."""
    best = min((row for row in table if row["kept"]), key=lambda row: row["ratio_to_fp32"])
    return best if best["ratio_to_fp32"] < 1 - NOISE else next(row for row in table if row["precision"] == "fp32")
