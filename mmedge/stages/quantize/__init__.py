"""Quantization: candidate precisions of one graph, judged on validation and timed in turn; the best are kept.

``candidates.py`` makes and judges them, from what ``evaluation.py`` gives: a graph, calibration inputs and a few functions;
``calibration.py`` chooses what they are calibrated on; ``mixed.py`` searches for what must stay in float; ``ptq.py`` is NNCF. This file ties them
to a run's artifacts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mmedge.artifact import GRAPH, Artifact
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.errors import AccuracyGateFailed, UsageError
from mmedge.gate import COST_EXIT
from mmedge.measure import power
from mmedge.measure.budget import losses_of
from mmedge.measure.latency import one_sample
from mmedge.models.load import contract_of
from mmedge.recipe import Prefer, Quantize, computes_int8, is_of
from mmedge.report.schema import CalibrationRecord, CandidateRecord, ChoiceRecord, MissRecord, UnmadeRecord
from mmedge.stages.preference import best_kept, by_energy, small_enough, unmet
from mmedge.stages.quantize import calibration
from mmedge.stages.quantize.candidates import (
    Table,
    check_proof,
    make_and_judge,
    reason,
)
from mmedge.stages.quantize.evaluation import Trial, evaluator, outputs_of, timer
from mmedge.stages.quantize.trained import add_trained
from mmedge.stages.results import QuantizeResult, StageResult
from mmedge.training.context import Context

_NOT_PRIVATE = "warning: calibrated on training samples, and so not private any more, as its parent was"
# Calibration inputs, and the record of them.
Calibrated = tuple[list[dict[str, np.ndarray]], CalibrationRecord | None]


def quantize(parent: Artifact, config: Quantize, context: Context) -> QuantizeResult:
    """Make every candidate, judge it on the validation split, and make the best one that is kept ``model.onnx``."""
    contract = contract_of(parent)
    train, validation = (
        split.only(tuple(contract.modalities)) for split in (context.dataset.train, context.dataset.validation)
    )
    graph, folder, notes = parent.file(GRAPH), context.folder, list[str]()
    (inputs, calibrated), config, unmade = calibrated_or_float(
        lambda: calibrate(graph, train, contract, config, context, notes), config
    )
    trial = Trial(
        graph=graph,
        calibration=inputs,
        evaluate=evaluator(contract, validation),
        outputs=outputs_of(graph, contract, validation),
        losses=losses_of(contract, validation),
        policy=context.recipe.judging.policy,
        confidence=context.recipe.judging.confidence,
        time=timer(validation, context.recipe.measure, context.progress),
        progress=context.progress,
        work=context.work,
        elsewhere=context.recipe.export.elsewhere,
        required=config.require == "int8",
        energy=_energies(validation, context) if by_energy(context.recipe.prefer) else None,
    )
    table = make_and_judge(trial, config, folder)
    table.absent |= unmade
    add_trained(table, trial, config, parent, context, folder, notes)
    choice = concluded(table, config, folder, notes, context.recipe.prefer)
    chosen = {name: getattr(choice, name) for name in choice.model_fields_set}
    written = StageResult.like(parent, choice.notes)
    if written.privacy and computes_int8(choice.precision):
        written = written.model_copy(update={"privacy": None})
        chosen["notes"] = [*choice.notes, _NOT_PRIVATE]
    return QuantizeResult.of(written, calibration=calibrated, **chosen)


def _energies(validation: Samples, context: Context) -> Callable[[Mapping[str, Path]], dict[str, float] | str]:
    """``Trial.energy`` on the first of the samples."""
    measure = context.recipe.measure
    return partial(power.of_graphs, inputs=one_sample(validation, measure.batch), threads=measure.threads)


def calibrated_or_float(
    calibrate: Callable[[], Calibrated], config: Quantize
) -> tuple[Calibrated, Quantize, dict[str, str]]:
    """(what ``calibrate`` gives, the section, {}), or where it fails (nothing, the section without the candidates that
    compute in 8 bits, {each of them: why}). Raises what it raises where INT8 is required.
    """
    try:
        return calibrate(), config, {}
    except (UsageError, OSError):
        raise
    except Exception as error:  # what ONNX Runtime raises on the graph with its inner tensors as outputs
        if config.require == "int8":
            raise
        lost: dict[str, str] = {
            name: f"calibration fails: {reason(error)}" for name in config.candidates if computes_int8(name)
        }
        floats = tuple(name for name in config.candidates if name not in lost)
        return ([], None), config.model_copy(update={"candidates": floats, "fallbacks": ()}), lost


def calibrate(
    graph: Path, train: Samples, contract: Contract, config: Quantize, context: Context, notes: list[str]
) -> Calibrated:
    """(calibration inputs, the record of them); none where no candidate is INT8."""
    rows = calibration.calibration_rows(train, config.calibration or calibration.MOST, context.recipe.seed)
    inputs, curve = calibration.calibrated(
        graph,
        lambda: calibration.with_steps(graph, calibration.calibration_inputs(train, rows, context.recipe.seed)),
        config,
        notes,
        lambda done, total: context.progress.step("calibration", done, total, "samples"),
        of=f"{len(train)} training samples",
    )
    if not inputs:
        return [], None
    missing = calibration.gaps(train, rows[: len(inputs)], inputs, contract)
    notes += [f"warning: in calibration, {gap}" for gap in missing]
    record = CalibrationRecord(samples=len(inputs), gaps=missing)
    return inputs, record if config.calibration else record.model_copy(update={"curve": curve})


def _best(rows: Sequence[CandidateRecord], config: Quantize, prefer: Prefer) -> CandidateRecord:
    """The best of those that are kept and, where a size is asked for, as small."""
    return best_kept(small_enough([row for row in rows if row.kept], config.max_size_kb), prefer)


def _by_its_figure(taken: CandidateRecord, rows: Sequence[CandidateRecord], prefer: Prefer) -> list[str]:
    """What would be taken if figures counted and not their bounds: nobody is to think that there is nothing better."""
    counted = [row.model_copy(update={"kept": True}) for row in rows if row.unproven or row is taken]
    better = best_kept(counted, prefer, taken.precision)
    if better.precision == taken.precision:
        return []
    return [
        f"{better.precision} ({better.ratio_to_fp32:.2f} x the latency of fp32) is inside the budget by what it loses, which {better.n}"
        " samples cannot prove: more samples may, a larger max_drop allows more, and policy: point (gates, --policy) takes figures as they are"
    ]


def concluded(
    table: Table, config: Quantize, folder: Path, notes: list[str], prefer: Prefer = "latency"
) -> ChoiceRecord:
    """Write ``model.onnx``, what is best by ``prefer``, and return what the artifact says of the candidates.

    Raises MismatchError where the taken graph's INT8 layers run in float. Where a precision is required and none of it
    is inside the budget, the one that loses least is taken, and ``misses`` holds the gate that it failed.
    """
    misses: list[MissRecord] = []
    taken = _best(table.rows, config, prefer)
    if config.require is not None:
        of_it = [row for row in table.rows if is_of(row.precision, config.require)]
        kept = [row for row in of_it if row.kept]
        taken = _best(kept, config, prefer) if kept else max(of_it, key=lambda row: row.quality_validation)
        if not kept:
            reference = next(row for row in table.rows if row.precision == "fp32")
            loss = reference.quality_validation - taken.quality_validation
            misses.append(unmet(config, loss))
            notes.append(
                f"no {config.require} candidate is inside the budget, which the recipe requires; the best that was found is {taken.precision}"
            )
    if config.max_size_kb is not None and taken.size_bytes > config.max_size_kb * 1000:
        size_kb = taken.size_bytes / 1000
        misses.append(MissRecord(name="max_size_kb", limit=config.max_size_kb, value=size_kb, exit=COST_EXIT))
        notes.append(
            f"{taken.precision}, of {size_kb:.1f} KB, is the smallest that keeps the accuracy; {config.max_size_kb:g} KB are allowed"
        )
    smaller = [row for row in table.rows if row.precision != "fp32"]
    if config.on_miss == "stop" and smaller and not any(row.kept for row in smaller):
        raise AccuracyGateFailed(
            f"no candidate but fp32 is inside the budget of accuracy: {smaller[-1].precision}: {smaller[-1].why}",
            where="quantize.on_miss: stop",
            todo="allow a larger max_drop, add validation samples, or say on_miss: keep-parent",
        )
    check_proof(taken)
    shutil.copyfile(folder / f"{taken.precision}.onnx", folder / GRAPH)
    if taken.precision == "fp32":
        notes.append(
            f"fp32, the parent's precision, is kept: no candidate inside the budget is better ({prefer} is preferred)"
        )
    notes += _by_its_figure(taken, table.rows, prefer)
    rows: list[CandidateRecord | UnmadeRecord] = list(table.rows)
    for name, why in table.absent.items():
        rows.append(UnmadeRecord(precision=name, kept=False, why=f"not made: {why}"))
    notes += [f"{row.precision}: {row.why}" for row in rows]
    choice = ChoiceRecord(candidates=rows, precision=taken.precision, notes=notes + table.notes + table.disturbed)
    found = {"misses": misses, "fusion_points": table.fusion_points, "sensitivity": table.sensitivity}
    return choice.model_copy(update={name: value for name, value in found.items() if value})
