"""Quantization of a user's own ONNX file: no recipe and no training, only arrays of what the model takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmedge import __version__, artifact
from mmedge.backends import onnxruntime_cpu
from mmedge.data.arrays import GIVEN, Arrays, Calls, read_calls
from mmedge.errors import MmedgeError, UsageError, did_you_mean, first_line
from mmedge.gate import COST_EXIT, Policy
from mmedge.graph.foreign import tidied, unfolded
from mmedge.graph.steady import refuse_chance
from mmedge.machine import machine
from mmedge.measure import power
from mmedge.measure.budget import WHOLE, Losses
from mmedge.measure.calls import Judge, check_arrays, check_labels, column, judge_of, scores
from mmedge.measure.comparing import compared_means
from mmedge.measure.intervals import of_figure, of_share
from mmedge.measure.latency import time_graphs
from mmedge.profiling.timing import Timing
from mmedge.progress import Progress
from mmedge.recipe import Measure, Prefer, Quantize
from mmedge.report.quantized_file import BudgetRecord, CallsRecord, FileReport
from mmedge.report.schema import CandidateRecord, ChoiceRecord, MissRecord
from mmedge.stages.preference import by_energy
from mmedge.stages.quantize import calibrated_or_float, calibration, concluded
from mmedge.stages.quantize.candidates import make_and_judge
from mmedge.stages.quantize.evaluation import Scored, Trial

_MEANING = {
    "accuracy": "accuracy against the labels",
    "agreement": "share of calls whose largest output is the same as FP32's (no labels were given)",
    "difference": "1 minus the relative difference of the outputs from FP32's (no labels were given)",
}
# Calls that sensitivity and saturation are measured on (fewer where they would take longer than these seconds, but never
# less than the second figure), and seconds that one of the two timings of all candidates may take.
_FEW, _FEWEST, _PASS_S, _TIMED_S = 100, 12, 4.0, 10.0


@dataclass(frozen=True)
class FileOptions:
    """``judge``: None for accuracy where there are labels, else agreement for one row of scores, else difference.

    ``output``: the one that is judged by labels or agreement, the first by default. ``max_latency_ratio``: to FP32.
    ``named``: whether the candidates were named; INT8 that comes out as float is then an error, else it is noted and
    not taken.
    """

    config: Quantize
    judge: Judge | None = None
    output: str | None = None
    labels: Path | None = None
    threads: int = 1
    seed: int = 0
    max_latency_ratio: float | None = None
    prefer: Prefer = "latency"
    policy: Policy = "strict"
    named: bool = False


@dataclass(frozen=True)
class FileData:
    """The user's calls in two halves, which calibrate and judge, and FP32's outputs for the second.

    ``output``: the one that is judged, by ``judge``; ``affordable``: how many calls FP32 runs in a few seconds.
    """

    calibrating: Calls
    judging: Calls
    expected: list[dict[str, np.ndarray]]
    output: str
    judge: Judge
    affordable: int


def quantize_file(
    model: Path, source: str | Arrays, out: Path, settings: FileOptions, progress: Progress
) -> FileReport:
    """Write the candidates of ``model`` that were kept, the best as ``model.onnx``, and ``report.json`` into ``out``.

    ``source``: see ``read_calls``. Half of the calls calibrate, the other half judges. Returns the report; its ``exit`` is 3 where the precision that
    is required is not inside the accuracy budget, 4 where the best is slower than asked, else 0. Raises MmedgeError.
    """
    _check_out(out)
    place = source if isinstance(source, str) else GIVEN
    progress.say(f"quantize: reading {place}")
    data = _read(model, source, settings, progress)
    notes = _notes(data, settings)
    key = artifact.hash_json([artifact.sha256_of(model), place, settings])
    with artifact.creating(out, stage="quantize", key=key, parent=artifact.sha256_of(model)) as (folder, meta):
        graph = folder / "whole.onnx"
        notes += tidied(model, graph, data.calibrating.inputs[0])
        (inputs, _), config, unmade = calibrated_or_float(
            lambda: (_calibrated(data, graph, settings, notes, progress), None), settings.config
        )
        table = make_and_judge(_trial(data, graph, inputs, settings, notes, progress), config, folder)
        table.absent |= unmade
        choice = concluded(table, config, folder, notes, settings.prefer)
        report = _report(model, place, data, settings, choice)
        _tidy(folder, graph)
        record = report.record()
        artifact.write_json(folder / "report.json", record)
        meta |= {name: record[name] for name in ("precision", "candidates", "notes")}
    return report


def _read(model: Path, source: str | Arrays, settings: FileOptions, progress: Progress) -> FileData:
    """Read the calls, split them by the seed, and run FP32 on those that judge."""
    native = onnxruntime_cpu.session(model, threads=settings.threads)
    calls = read_calls(source, native.inputs, settings.labels)
    if len(calls) < 4:
        raise UsageError(
            f"{len(calls)} calls of data: half of them calibrate and half judge",
            where=source if isinstance(source, str) else GIVEN,
            todo="give at least 4, better some hundreds",
        )
    order = np.random.default_rng(settings.seed).permutation(len(calls))
    half = len(calls) // 2
    calibrating, judging = calls.take(order[:half]), calls.take(order[half:])
    began = time.monotonic()
    expected = _run(native, judging, lambda done: progress.step("outputs of FP32", done, len(judging), "calls"))
    affordable = int(_PASS_S * len(judging) / max(time.monotonic() - began, 1e-6))
    check_arrays(expected, str(model))
    refuse_chance(native, judging.inputs[0], model, expected[0])
    names = list(expected[0])
    chosen = settings.output or names[0]
    if chosen not in names:
        raise UsageError(
            f"the model has no output {chosen!r}{did_you_mean(chosen, names)}; it has {', '.join(names)}",
            where=str(model),
        )
    kind = settings.judge or judge_of(expected, chosen, labels=judging.labels is not None)
    if kind == "accuracy":
        check_labels(judging.labels, expected, chosen, source if isinstance(source, str) else GIVEN)
    return FileData(calibrating, judging, expected, chosen, kind, affordable)


def _notes(data: FileData, settings: FileOptions) -> list[str]:
    count = len(data.judging)
    notes = [
        f"{len(data.calibrating)} calls to calibrate on, {count} others to judge by; the split is drawn by seed {settings.seed}"
    ]
    if count < 50:
        notes.append(f"warning: {count} calls judge; one of them is {1 / count:.1%}")
    return notes + _no_better_than_luck(data) + _not_finite(data.judging, data.expected)


def _no_better_than_luck(data: FileData) -> list[str]:
    """A warning where FP32 is right no more often than the commonest label is: what is at chance cannot fall."""
    labels = data.judging.labels
    if data.judge != "accuracy" or labels is None:
        return []
    right = float(scores("accuracy", data.expected, data.expected, data.output, labels).mean())
    most = float(np.unique(labels, return_counts=True)[1].max()) / len(labels)
    if right > most:
        return []
    return [
        f"warning: FP32 itself is right in {right:.0%} of the calls, and the commonest label is {most:.0%} of them: "
        f"is {data.output!r} the scores, in the order that the labels are numbered in?"
    ]


def _calibrated(
    data: FileData, graph: Path, settings: FileOptions, notes: list[str], progress: Progress
) -> list[dict[str, np.ndarray]]:
    """The calls that calibrate, as many as suffice."""
    inputs, _ = calibration.calibrated(
        graph,
        lambda: data.calibrating.inputs,
        settings.config,
        notes,
        lambda done, total: progress.step("calibration", done, total, "calls"),
        of="them",
    )
    return inputs


def _trial(
    data: FileData,
    graph: Path,
    inputs: list[dict[str, np.ndarray]],
    settings: FileOptions,
    notes: list[str],
    progress: Progress,
) -> Trial:
    """What candidates of ``graph`` are made from and judged by; ``notes`` gets what a reader must know of that."""
    typical = _typical(data.judging, notes)
    return Trial(
        graph=graph,
        calibration=inputs,
        evaluate=_scorer(data),
        outputs=_outputs(data.judging, min(max(data.affordable, _FEWEST), _FEW)),
        losses=_losses,
        policy=settings.policy,
        time=_timer(typical, settings, progress),
        energy=partial(power.of_graphs, inputs=typical, threads=settings.threads)
        if by_energy(settings.prefer)
        else None,
        progress=progress,
        work=graph.parent / ".work",
        elsewhere=False,
        required=settings.named or settings.config.require == "int8",
        unfolded=unfolded(graph) if unfolded(graph).is_file() else None,
    )


def _check_out(out: Path) -> None:
    """Raise UsageError where writing would replace a folder that no earlier call wrote."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / artifact.MANIFEST).is_file())):
        raise UsageError(
            "there is something else where the result shall be written", where=str(out), todo="name another --out"
        )


def _tidy(folder: Path, graph: Path) -> None:
    import shutil

    shutil.rmtree(folder / ".work", ignore_errors=True)
    graph.unlink()
    unfolded(graph).unlink(missing_ok=True)


def _run(run: Any, calls: Calls, step: Callable[[int], None] = lambda done: None) -> list[dict[str, np.ndarray]]:
    """A graph's outputs for every call; raises MmedgeError that names the call it does not take."""
    outputs = []
    for number, (feed, place) in enumerate(zip(calls.inputs, calls.places)):
        step(number)
        try:
            outputs.append(run(feed))
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            shapes = {name: list(value.shape) for name, value in feed.items()}
            raise MmedgeError(
                f"the model does not run: {first_line(error)}",
                where=place,
                todo=f"it was called with {shapes}",
            ) from error
    return outputs


def _not_finite(calls: Calls, expected: list[dict[str, np.ndarray]]) -> list[str]:
    """Warnings of inputs and outputs that hold NaN or infinity, which no figure tells."""
    notes = []
    for what, of in (("input", calls.inputs), ("output", expected)):
        for name, first in of[0].items():
            bad = sum(first.dtype.kind == "f" and not np.isfinite(each[name]).all() for each in of)
            if bad:
                notes.append(f"warning: the {what} {name!r} holds NaN or infinity in {bad} of {len(of)} calls")
    return notes


def _scorer(data: FileData) -> Callable[[Path], Scored]:
    """``Trial.evaluate``: the mean over judged calls, of which more is better in every kind; ``outputs`` are float [calls]."""

    def evaluate(graph: Path) -> Scored:
        # Of FP32 the outputs are there.
        calls, expected = data.judging, data.expected
        outputs = expected if graph.stem == "fp32" else _run(onnxruntime_cpu.session(graph), calls)
        found = scores(data.judge, outputs, expected, data.output, calls.labels)
        return Scored(float(found.mean()), {}, len(found), found, _mean_ci95(found))

    return evaluate


def _mean_ci95(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of float [n], 0 to 1 each: exact where each is right or wrong."""
    alone = np.arange(len(values))
    whole = bool(np.isin(values, (0, 1)).all())
    found = of_share(values, alone) if whole else of_figure(lambda rows: float(values[rows].mean()), alone)
    return found.low, found.high


def _losses(before: np.ndarray, after: np.ndarray, tail: float) -> Losses:
    """``Trial.losses``: what the mean of float [n] loses."""
    return {WHOLE: compared_means(before, after, tail=tail)}


def _outputs(calls: Calls, count: int) -> Callable[[Path, bool], dict[str, np.ndarray]]:
    """``Trial.outputs``: the outputs of the first calls as one column, since their shapes may differ."""
    few = calls.take(np.arange(min(count, len(calls))))

    def outputs(graph: Path, optimize: bool) -> dict[str, np.ndarray]:
        return {WHOLE: column(_run(onnxruntime_cpu.session(graph, optimize=optimize), few))}

    return outputs


def _typical(calls: Calls, notes: list[str]) -> dict[str, np.ndarray]:
    """The call of median size, with a note where sizes differ: its latency stands for all."""
    sizes = [sum(value.size for value in feed.values()) for feed in calls.inputs]
    feed = calls.inputs[int(np.argsort(sizes, kind="stable")[len(sizes) // 2])]
    if len(set(sizes)) > 1:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feed.items())
        notes.append(f"the calls' shapes differ; timed is the one of median size: {shapes}")
    return feed


def _timer(
    feed: dict[str, np.ndarray], settings: FileOptions, progress: Progress
) -> Callable[[Mapping[str, Path]], dict[str, Timing]]:
    """``Trial.time`` on one call, as often as some seconds allow."""

    def timed(graphs: Mapping[str, Path]) -> dict[str, Timing]:
        measure = Measure(threads=settings.threads, runs=20, warmup=3)
        first = time_graphs(graphs, feed, measure, progress)
        once = sum(first.timing(name).mean_ms for name in graphs)
        runs = int(np.clip(_TIMED_S * 1000 / max(once, 1e-3), 50, 1000))
        taken = time_graphs(graphs, feed, measure.model_copy(update={"runs": runs}), progress)
        return {name: taken.timing(name) for name in graphs}

    return timed


def _report(model: Path, source: str, data: FileData, settings: FileOptions, choice: ChoiceRecord) -> FileReport:
    """The report, with the verdict on the accuracy budget, and on latency where a limit was given."""
    calibrated, judged = len(data.calibrating), len(data.judging)
    misses = [*choice.misses, *_slower(choice, settings.max_latency_ratio)]
    return FileReport(
        schema=1,
        mmedge=__version__,
        model=str(model),
        model_sha256=artifact.sha256_of(model),
        machine=machine(),
        data=CallsRecord(source=source, calls=calibrated + judged, calibration=calibrated, judged=judged),
        judged_by=_MEANING[data.judge],
        output=data.output if data.judge != "difference" else "all",
        budget=BudgetRecord(max_drop=settings.config.max_drop, require=settings.config.require),
        threads=settings.threads,
        **{name: getattr(choice, name) for name in choice.model_fields_set - {"misses"}},
        misses=misses,
        verdict="fail" if misses else "pass",
        exit=min((miss.exit for miss in misses), default=0),
    )


def _slower(choice: ChoiceRecord, limit: float | None) -> list[MissRecord]:
    """The candidate that is taken, where it is slower than ``limit`` times FP32."""
    made = [row for row in choice.candidates if isinstance(row, CandidateRecord)]
    ratio = next(row for row in made if row.precision == choice.precision).ratio_to_fp32
    if limit is None or ratio <= limit:
        return []
    return [MissRecord(name="latency_ratio_to_fp32", limit=limit, value=ratio, exit=COST_EXIT)]
