"""Candidate precisions of a graph: made, evaluated, timed in one interleaved run, and kept or dropped with the reason.

Nothing here knows of training: a graph, calibration inputs, a function that evaluates and one that times are enough.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmedge.errors import MismatchError, MissingDependency, MmedgeError, UsageError, first_line
from mmedge.gate import Estimate
from mmedge.graph import dynamic, fusion, precision, qdq, terse, weights
from mmedge.graph.prepared import Prepared, prepared
from mmedge.measure.budget import WHOLE, Budget, Losses
from mmedge.measure.comparing import SAME
from mmedge.profiling.timing import disturbed
from mmedge.recipe import Candidate, Quantize, computes_int8
from mmedge.report.schema import CandidateRecord, FusionPointRecord, LayersRecord, SensitivityRecord
from mmedge.stages.preference import INSTEAD, NOISE, tail_of
from mmedge.stages.quantize import mixed, ptq
from mmedge.stages.quantize.evaluation import Scored, Trial, joined

# Share of the outputs' power that fused kernels may differ by from the same graph run node by node.
_SATURATION = 0.01


@dataclass(frozen=True)
class Facts:
    """What ONNX Runtime makes of a graph that computes in 8 bits.

    ``kernels``: how many 8-bit ones it runs, by type; ``saturation``: see the function of that name.
    """

    kernels: dict[str, int]
    layers: LayersRecord
    saturation: float


@dataclass
class Table:
    """What came of the candidates: a row each, what was not made and why, and the measurements on the way.

    ``source``: what INT8 is made from, and its layers go back to; ``disturbed``: a note where latencies were. Of each graph its ``scores``, ``losses``
    against FP32 and by how much these have ``missed`` the budget, and of those
    that compute in 8 bits ``facts``, what ``measured_facts`` gives; each once.
    """

    graphs: dict[str, Path] = field(default_factory=dict)
    scores: dict[str, Scored] = field(default_factory=dict)
    losses: dict[str, Losses] = field(default_factory=dict)
    missed: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    rows: list[CandidateRecord] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    disturbed: list[str] = field(default_factory=list)
    fusion_points: list[FusionPointRecord] = field(default_factory=list)
    sensitivity: SensitivityRecord | None = None
    source: Prepared | None = None

    def over(self, name: str) -> float:
        """By how much a candidate misses the budget: 0 or less is inside it."""
        return self.missed[name]

    def best_static(self, config: Quantize) -> str | None:
        """The candidate with quantized activations everywhere that loses least; None where there is none."""
        return min(filter(is_static, self.graphs), key=lambda name: self.over(name), default=None)


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
            _score(name, folder / f"{name}.onnx", table, trial, config)
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

    more: list[Candidate] = ptq.others(trial.graph) if "int8" in config.candidates else []
    more += ["int8-weights", "int4-weights"] if config.max_size_kb is not None else []
    listed = dict.fromkeys([*config.candidates, *more])
    for name in sorted(listed, key=lambda name: (name != "fp32", name == "int8-mixed")):
        add(name)
    first = next(filter(is_static, table.graphs), None)
    if first is not None and config.on_miss == "try-next":
        missed = all(table.over(name) > 0 for name in table.graphs if computes_int8(name))
        for fallback in _fallbacks(trial, config, table, first) if missed else ():
            if fallback not in config.candidates:
                add(fallback)
            if fallback in table.scores and table.over(fallback) <= 0:
                break
    judge(table, trial, config)
    return table


def _fallbacks(trial: Trial, config: Quantize, table: Table, first: str) -> tuple[Candidate, ...]:
    """Those that can help this graph here, of which ``first`` was made: each costs seconds, or on a large network minutes."""
    import onnx

    fallbacks = list(config.fallbacks)
    if measured_facts(first, table, trial).saturation <= _SATURATION and "int8-narrow" in fallbacks:
        fallbacks.remove("int8-narrow")
    kinds = {node.op_type for node in onnx.load(trial.graph, load_external_data=False).graph.node}
    if not kinds & {"Softmax", "LayerNormalization"} and "int8-smooth" in fallbacks:
        fallbacks.remove("int8-smooth")
    if fallbacks and not trial.elsewhere and config.require != "int8":
        timings = trial.time({name: table.graphs[name] for name in ("fp32", first)})
        ratio = timings[first].p50_ms / timings["fp32"].p50_ms
        if ratio > 1 - NOISE:
            table.notes.append(f"no variant of {first} was tried: it takes {ratio:.2f} x the time of fp32 here")
            return ()
    return tuple(fallbacks)


def saturation(trial: Trial, graph: Path) -> float:
    """How far a Q/DQ graph's outputs with the runtime's fusions are from those without, as a share of their power."""
    return mixed.distance(joined(trial.outputs(graph, False)), joined(trial.outputs(graph, True)))


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
        case "int8-weights" | "int4-weights":
            weights.weights_only(trial.graph, target, bits=4 if name == "int4-weights" else 8)
            if config.max_size_kb is not None and target.stat().st_size > config.max_size_kb * 1000:
                terse.shorten(target)
                table.notes.append(f"{name}: its nodes and inner tensors have no names of meaning, to save their bytes")
        case "int8-dynamic":
            dynamic.int8(trial.graph, target)
        case "int8-mixed":
            base = table.best_static(config)
            if base is None:
                raise MmedgeError("it starts from an int8 candidate, and there is none")
            missed = _budget(base, trial, config).missed(table.losses[base])
            problem = mixed.Search(
                table.graphs[base],
                table.source.graph if table.source else trial.graph,
                outputs=lambda graph: joined(trial.outputs(graph, True), missed),
                overshoot=lambda graph: _lost("int8-mixed", trial.evaluate(graph), table, trial, config)[0],
                progress=trial.progress,
                seconds=config.search_seconds,
                cache=trial.work / "sensitivity",
            )
            table.sensitivity = mixed.search(problem, target)
            if not table.sensitivity.found:
                raise MmedgeError(f"no mix of INT8 and FP32 was found: {table.sensitivity.said}")
        case _:
            source = table.source = table.source or _prepared(trial.graph, trial)
            try:
                ptq.int8(source, target, trial.calibration, name)
            except MmedgeError:
                if trial.unfolded is None or source.attention or source.graph == trial.unfolded:
                    raise
                source = _prepared(trial.unfolded, trial)
                ptq.int8(source, target, trial.calibration, name)
                table.source = source
            if config.ignore:
                model = onnx.load(target)
                names = qdq.named(config.ignore, qdq.layers(model), where="quantize.ignore")
                onnx.save(qdq.restored(model, onnx.load(source.graph), names), target)
            fusion.widen_few(target, source.graph, trial.calibration)
            points = fusion.keep_apart(target, source.graph, trial.calibration)
            table.fusion_points = table.fusion_points or points


def _prepared(graph: Path, trial: Trial) -> Prepared:
    trial.work.mkdir(parents=True, exist_ok=True)
    return prepared(graph, trial.work / "prepared.onnx", trial.calibration)


def is_static(name: str) -> bool:
    """Whether a candidate has quantized activations that the search may take back."""
    return computes_int8(name) and name not in ("int8-mixed", "int8-hybrid")


def _budget(name: str, trial: Trial, config: Quantize) -> Budget:
    sure = 1 - tail_of(name, config, trial.confidence)
    return Budget(config.max_drop, config.max_subset_drop, trial.policy, sure)


def _lost(name: str, scored: Scored, table: Table, trial: Trial, config: Quantize) -> tuple[float, Losses]:
    """(by how much the budget is missed, what is lost against FP32) of a candidate."""
    tail = tail_of(name, config, trial.confidence)
    losses = trial.losses(table.scores["fp32"].outputs, scored.outputs, tail)
    if name == "fp32":  # itself, whatever so few samples tell of others
        losses = {of: Estimate(0.0, 0.0, 0.0, each.n, SAME) for of, each in losses.items()}
    return _budget(name, trial, config).over(losses), losses


def _score(name: str, graph: Path, table: Table, trial: Trial, config: Quantize) -> None:
    """Give the table a candidate's scores and what it loses."""
    table.scores[name] = trial.evaluate(graph)
    table.missed[name], table.losses[name] = _lost(name, table.scores[name], table, trial, config)


def _latencies(trial: Trial, table: Table) -> dict[str, tuple[float, float]]:
    """{name: (latency over FP32's, median milliseconds)}, of two interleaved runs that in which it was slower.

    The sessions are opened anew, in the other order: two of one graph can differ by 3 % by where they lie in memory.
    """
    graphs = table.graphs
    runs = [trial.time(graphs), trial.time(dict(reversed(list(graphs.items()))))]
    table.disturbed = disturbed(max(timing.cv for run in runs for timing in run.values()))
    return {name: max((run[name].p50_ms / run["fp32"].p50_ms, run[name].p50_ms) for run in runs) for name in graphs}


def judge(table: Table, trial: Trial, config: Quantize) -> None:
    """Give the table one row a candidate: its quality, its latency (see ``_latencies``), whether it is kept and why.

    ``graphs`` must hold ``fp32``, against which the others are judged. Raises MismatchError where INT8 was asked for
    and ONNX Runtime runs no 8-bit kernel of it at all.
    """
    latencies, reference, table.rows = _latencies(trial, table), table.scores["fp32"], []
    for name, graph in table.graphs.items():
        scored, (ratio, p50_ms) = table.scores[name], latencies[name]
        lost = trial.losses(reference.outputs, scored.outputs, 0.025)[WHOLE]
        row = CandidateRecord(
            precision=name,
            quality_validation=scored.quality,
            subsets_validation=scored.subsets,
            n=scored.n,
            ci95=scored.ci95,
            drop=reference.quality - scored.quality,
            drop_ci95=(lost.low, lost.high),
            drop_bound=table.losses[name][WHOLE].high,
            p50_ms=p50_ms,
            ratio_to_fp32=ratio,
            size_bytes=graph.stat().st_size,
            kept=table.over(name) <= 0,
            why="",
        )
        doubt = _budget(name, trial, config).unproven(table.losses[name])
        row = row.model_copy(update={"unproven": doubt is not None, "why": _why(row, reference, doubt)})
        table.rows.append(_with_facts(row, table, trial) if computes_int8(name) else row)
    if trial.energy is not None:
        table.rows = _with_energy(trial.energy(table.graphs), table)


def _with_energy(found: Mapping[str, float] | str, table: Table) -> list[CandidateRecord]:
    """The rows with what each takes; as they are, with a note that says why, where that cannot be measured."""
    if isinstance(found, str):
        note = f"{found}: {INSTEAD}"
        table.notes += [] if note in table.notes else [note]
        return table.rows
    return [row.model_copy(update={"energy_mj": found[row.precision]}) for row in table.rows]


def _with_facts(row: CandidateRecord, table: Table, trial: Trial) -> CandidateRecord:
    """The row of a candidate that computes in 8 bits, with what that comes to; dropped where it comes to nothing."""
    try:
        facts = measured_facts(row.precision, table, trial)
    except Exception as error:  # ONNX Runtime's and onnx's share no base class
        if trial.required:
            raise
        why = f"dropped: what runs in 8 bits cannot be proved: {reason(error)}"
        return row.model_copy(update={"kept": False, "why": why})
    found = {"int8_kernels": facts.kernels, "int8_layers": facts.layers, "saturation": facts.saturation}
    if not facts.kernels:
        if row.precision == "int8" and trial.required:
            raise MismatchError(
                "INT8 was asked for and ONNX Runtime runs no 8-bit kernel of this model",
                todo="leave int8 out of quantize.candidates and quantize.require, of a file out of --candidates and --require",
            )
        found |= {"kept": False, "why": "dropped: ONNX Runtime runs no 8-bit kernel of it"}
    elif facts.layers.unexplained and not trial.required:
        floats = ", ".join(facts.layers.unexplained)
        found |= {"kept": False, "why": f"dropped: quantized layers run in float on ONNX Runtime: {floats}"}
    return row.model_copy(update=found)


def add_candidate(name: str, graph: Path, table: Table, trial: Trial, config: Quantize) -> None:
    """Judge one more candidate, that was made elsewhere; all are timed again, in one interleaved run."""
    table.graphs[name] = graph
    _score(name, graph, table, trial, config)
    judge(table, trial, config)


def measured_facts(name: str, table: Table, trial: Trial) -> Facts:
    """What ONNX Runtime makes of a candidate that computes in 8 bits; the table keeps it, with a note where fusions change them."""
    if name not in table.facts:
        graph = table.graphs[name]
        kernels, layers = proved(graph)
        found = table.facts[name] = Facts(kernels, layers, saturation(trial, graph))
        if found.saturation > _SATURATION:
            table.notes.append(
                f"{name}: ONNX Runtime's fused kernels differ from the graph run node by node by {found.saturation:.1%} "
                "of the outputs' power: they round elsewhere, and sums saturate where a CPU has no VNNI; other targets' need not"
            )
    return table.facts[name]


def proved(graph: Path) -> tuple[dict[str, int], LayersRecord]:
    """(8-bit kernels by type, what became of the layers) of a Q/DQ graph, from the graph that ONNX Runtime really runs."""
    optimized = precision.optimized(graph)
    return precision.int8_kernels(optimized), qdq.prove(graph, optimized)


def check_proof(row: CandidateRecord) -> None:
    """Raise MismatchError where a candidate that is taken has INT8 layers that run in float for no known reason."""
    unexplained = row.int8_layers.unexplained if row.int8_layers else []
    if unexplained:
        raise MismatchError(
            f"{row.precision}: quantized layers run in float on ONNX Runtime: {', '.join(unexplained)}",
            where="quantize.candidates",
            todo=f"declare them: quantize.ignore: [{', '.join(unexplained)}] in a recipe, --ignore of a file",
        )


def _why(row: CandidateRecord, reference: Scored, unproven: str | None) -> str:
    drop, (low, high) = row.drop, row.drop_ci95
    drops = {name: reference.subsets[name] - value for name, value in row.subsets_validation.items()}
    worst = max(drops, key=lambda name: drops[name], default="")
    speed = f"{row.ratio_to_fp32:.2f} x the latency of fp32"
    if not row.kept:
        of_worst = f" (worst subset {worst}: {drops[worst]:.3f})" if worst else ""
        doubt = f"; {unproven}" if unproven else ""
        return f"dropped: loses {drop:.3f} [{low:.3f}, {high:.3f}] on validation{of_worst}{doubt}, {speed}"
    lost = f"loses {max(drop, 0):.3f} [{low:.3f}, {high:.3f}] on validation, " if row.precision != "fp32" else ""
    return f"kept: {lost}{speed}"


def reason(error: Exception) -> str:
    """Why a candidate was not made, in one line."""
    return error.what if isinstance(error, MmedgeError) else f"{type(error).__name__}: {first_line(error)}"
