"""Which of the parent's candidates a backend gets: the fastest one on the backend itself, or the recipe's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from mmedge.artifact import GRAPH, Artifact, contract_of
from mmedge.backends import GRAPH_BACKEND, Backend, Session, onnxruntime_cpu, opened
from mmedge.errors import MmedgeError
from mmedge.graph import precision as precisions
from mmedge.measure import power
from mmedge.measure.budget import WHOLE, Budget, SplitOutputs, losses_of, split_outputs
from mmedge.measure.latency import Opener, one_sample, own_samples, ratio_figures, time_sessions
from mmedge.measure.quality import graph_predictor
from mmedge.recipe import Quantize, is_of, precision_of
from mmedge.report.schema import CandidateRecord, LatencyRecord
from mmedge.stages import preference
from mmedge.stages.export import engines
from mmedge.stages.export.engines import ExportWork
from mmedge.stages.export.verification import reference
from mmedge.stages.preference import Costs, small_enough, tail_of


def measured(work: ExportWork, parent: Artifact, folder: Path) -> tuple[str, LatencyRecord]:
    """The fastest of the parent's candidates that is inside the accuracy budget on the backend itself, and its latency, in
    one interleaved run with the teacher and the parent on ONNX Runtime."""
    context, name = work.context, work.backend.name
    measure = context.recipe.measure
    timed = folder / ".timed"
    timed.mkdir()
    openers = _candidates(work, parent, timed)
    kept, sample = list(openers), one_sample(context.dataset.test, measure.batch)
    beside = (("parent", parent), ("teacher", context.teacher))
    # A teacher that only teaches has no graph.
    others = {other: found for other, found in beside if found is not None and found.file(GRAPH).is_file()}
    contracts = {other: contract_of(found) for other, found in others.items()}
    taken = time_sessions(
        {f"{name} {each}": opener for each, opener in openers.items()}
        | {
            other: partial(onnxruntime_cpu.session, found.file(GRAPH), threads=measure.threads)
            for other, found in others.items()
        },
        sample,
        measure,
        context.progress,
        own_samples(contracts, context.dataset, measure.batch, context.progress),
    )
    spent = power.energies(openers, sample) if preference.by_energy(context.recipe.prefer) and len(kept) > 1 else {}
    if isinstance(spent, str):
        work.notes.append(f"{spent}: {preference.INSTEAD}")
        spent = {}
    p50 = {precision: taken.timing(f"{name} {precision}").p50_ms for precision in kept}
    rows = candidates_of(parent)
    costs = {
        each: Costs(
            p50[each],
            rows[each].size_bytes if each in rows else 0,
            rows[each].quality_validation if each in rows else 0,
            spent.get(each),
        )
        for each in kept
    }
    best = _best_inside(work, parent, costs, openers)
    shutil.rmtree(timed)
    for precision in costs:
        if precision != best:
            work.notes.append(f"{precision}: {p50[precision] / p50[best]:.2f} x the latency of {best} on {name}")
    built = f"{name} {best}"
    figures = {"target": name, "batch": measure.batch, "threads": measure.threads, **taken.timing(built).record()}
    for other in others:
        figures |= ratio_figures(taken, built, other, other)
    return best, LatencyRecord.model_validate(figures)


def _best_inside(work: ExportWork, parent: Artifact, costs: dict[str, Costs], openers: Mapping[str, Opener]) -> str:
    """The best candidate that loses no more than the budget on the backend itself; what does is noted and leaves ``costs``.

    What ONNX Runtime found does not count: its kernels are others. Where none is inside, the best of all, which is a miss where
    its precision is required.
    """
    prefer, rows = work.context.recipe.prefer, candidates_of(parent)
    first, all_costs = preference.best(prefer, costs, "fp32"), dict(costs)
    losses, loss = _losses_on_backend(work, parent), dict[str, float]()
    while costs:
        best = preference.best(prefer, costs, "fp32")
        lost = losses(best, openers[best]) if best in rows and best != "fp32" else None
        if lost is None:
            return best
        why, loss[best] = lost
        work.notes.append(f"{best}: dropped on {work.backend.name}: {why}")
        del costs[best]
    costs |= all_costs
    config = work.context.recipe.quantize
    if config and work.required:
        work.misses.append(preference.unmet(config, loss[first]))
    return first


def _losses_on_backend(work: ExportWork, parent: Artifact) -> Callable[[str, Opener], tuple[str, float] | None]:
    """``(candidate, what opens it) ->`` (why it is outside the budget on the backend, by validation, what it loses); None where
    it is inside."""
    context, contract = work.context, work.contract
    validation = context.dataset.validation.only(tuple(contract.modalities))
    config, judging = context.recipe.quantize or Quantize(), context.recipe.judging
    compare = losses_of(contract, validation)

    def outputs(run: Session) -> SplitOutputs:
        return split_outputs(contract, validation, graph_predictor(run, contract, validation))

    before: list[SplitOutputs] = []  # FP32's, where something is compared with it

    def outside(candidate: str, opener: Opener) -> tuple[str, float] | None:
        if not before:
            before.append(outputs(onnxruntime_cpu.session(reference(parent))))
        tail = tail_of(candidate, config, judging.confidence)
        budget = Budget(config.max_drop, config.max_subset_drop, judging.policy, 1 - tail)
        losses = compare(before[0], outputs(opener()), tail)
        if budget.over(losses) <= 0:
            return None
        worst = budget.worst(losses)
        of_worst = f", {losses[worst].value:.3f} with {worst} alone" if worst else ""
        loss = losses[WHOLE].value
        return budget.unproven(losses) or f"it loses {loss:.3f} on validation{of_worst}", loss

    return outside


def _candidates(work: ExportWork, parent: Artifact, folder: Path) -> dict[str, Opener]:
    """{candidate: what opens it, as it would ship} of those that the backend takes; the others are noted, unless there is no other."""
    backend, wanted = work.backend, work.options.precision
    config, rows = work.context.recipe.quantize or Quantize(), candidates_of(parent)
    if work.required:
        rows = {each: row for each, row in rows.items() if is_of(each, str(work.required))} or rows
    inside = [row for row in rows.values() if row.kept] or list(rows.values())
    small = {row.precision for row in small_enough(inside, config.max_size_kb)} if config.max_size_kb else set(rows)
    kept = [each for each in rows if each in small and not _lacks(backend, each)] or ["fp32"]
    if wanted is not None:
        kept = [each for each in kept if precision_of(each) == wanted] or [wanted]
    openers: dict[str, Opener] = {}
    for each in kept:
        graph = folder / each / GRAPH
        graph.parent.mkdir()
        try:
            taken = choose(parent, each, backend, graph, [], measured=True)
            built = engines.build(replace(work, notes=[]), graph, precision_of(taken))
            file = graph.with_name(built.file) if built else graph
            threads = work.context.recipe.measure.threads
            openers[each] = partial(opened, file, backend.name, threads=threads, host_code=True)
            openers[each]()  # what does not load shows now
        except MmedgeError as error:
            if len(kept) == 1:
                raise
            work.notes.append(f"{each}: not built for {backend.name}: {error.what}")
    return openers


def candidates_of(parent: Artifact) -> dict[str, CandidateRecord]:
    """{precision: what quantization found of it}, of those that were made; empty where the parent was not quantized."""
    made = [row for row in parent.meta.get("candidates", []) if "p50_ms" in row]
    rows = [CandidateRecord.model_validate(row) for row in made]
    return {row.precision: row for row in rows}


def _lacks(backend: Backend, candidate: str) -> bool:
    return candidate in backend.lacks or precision_of(candidate) in backend.lacks


def choose(
    parent: Artifact, wanted: str | None, backend: Backend, graph: Path, notes: list[str], *, measured: bool
) -> str:
    """Write the graph to build from and return the candidate's name; ``notes`` gets what a reader must know of the choice.

    On a backend that was measured, ``wanted``, which is a candidate; elsewhere the first of the recipe's precision.
    """
    candidates = candidates_of(parent)
    name = backend.name
    if name == GRAPH_BACKEND:
        chosen = wanted or parent.meta.get("precision", "fp32")
        if wanted is not None:
            notes.append(f"{chosen} as the recipe asks, not by measurement")
    else:
        chosen = wanted or "fp16"
        if not measured:
            notes.append(f"{chosen} by the recipe, not measured: this machine cannot run the target")
    if not measured or chosen not in candidates:
        chosen = _of_precision(chosen, candidates, backend)
    if chosen in candidates and not candidates[chosen].kept and not measured:
        notes.append(f"{chosen} is outside the accuracy budget: {candidates[chosen].why}")
    source = parent.file(f"{chosen}.onnx") if chosen in candidates else None
    if chosen == "int8" and source is None:
        raise MmedgeError(
            f"export to {name} asks for int8, which the quantize stage did not make",
            where=f"export.targets.{name}.precision",
            todo="add int8 to quantize.candidates",
        )
    if precision_of(chosen) == "int8" and backend.symmetric:
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


def _of_precision(wanted: str, candidates: Mapping[str, CandidateRecord], backend: Backend) -> str:
    """The candidate to take where a recipe names its precision: the first that is kept, else the one that loses least."""
    if wanted in candidates and candidates[wanted].kept:
        return wanted
    rows = [
        row
        for row in candidates.values()
        if precision_of(row.precision) == wanted and row.precision not in backend.lacks
    ]
    kept = [row for row in rows if row.kept]
    best = kept[:1] or sorted(rows, key=lambda row: -row.quality_validation)[:1]
    return best[0].precision if best else wanted
