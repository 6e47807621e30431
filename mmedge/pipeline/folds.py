"""Cross-validation: the recipe once a fold, each in a folder of its own, and the means with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmedge import __version__
from mmedge.artifact import write_json
from mmedge.errors import UsageError
from mmedge.pipeline import fold
from mmedge.pipeline.concluding import Outcome
from mmedge.progress import Progress
from mmedge.recipe import Recipe
from mmedge.report.folded import FoldedStageRecord, FoldRecord, FoldsReport, MeanRecord
from mmedge.report.schema import Report, RunVerdict
from mmedge.training.loop import processes

REPORT = "folds.json"
NOTE = (
    "intervals are Student's t over the folds; their training splits overlap, so that the true ones are somewhat wider"
)


def run_folds(recipe: Recipe, out: Path, *, code: Path, progress: Progress) -> tuple[list[Outcome], FoldsReport | None]:
    """Run every fold of ``data.fold`` into ``out/fold-N``, and write ``out/folds.json``; the outcomes in order, and that.

    Of processes that train together the main one alone has reports.

    An interrupted call goes on where it stopped. Raises UsageError where the recipe has no ``data.fold``.
    """
    folds = recipe.data.fold
    if folds is None:
        raise UsageError(
            "--folds all needs the number of folds",
            where="data.fold",
            todo="write fold: {k: 5, index: 0} under data; every index is run",
        )
    outcomes = []
    for index in range(folds.k):
        progress.say(f"fold {index + 1} of {folds.k}")
        data = recipe.data.model_copy(update={"fold": folds.model_copy(update={"index": index})})
        one = recipe.model_copy(update={"data": data})
        outcomes.append(fold.run(one, folder_of(out, index), code=code, progress=progress))
    reports = [outcome.report for outcome in outcomes if outcome.report]
    if not processes.is_main():
        return outcomes, None
    found = summary(recipe.name, reports)
    write_json(out / REPORT, found.record())
    return outcomes, found


def folder_of(out: Path, index: int) -> Path:
    """Where a fold is run."""
    return out / f"fold-{index}"


def summary(name: str, reports: Sequence[Report]) -> FoldsReport:
    """Each stage's quality, size and latency to the teacher as mean, interval and values a fold."""
    names = dict.fromkeys(stage.stage for report in reports for stage in report.stages)
    found = {report.verdict for report in reports}
    order: tuple[RunVerdict, ...] = ("fail", "cannot tell", "not judged", "pass")
    return FoldsReport(
        schema=1,
        mmedge=__version__,
        recipe=name,
        folds=[
            FoldRecord(fold=index, report=f"{folder_of(Path(), index)}/report.json", verdict=report.verdict)
            for index, report in enumerate(reports)
        ],
        stages=[_stage(stage, reports) for stage in names],
        notes=[NOTE],
        verdict=next(verdict for verdict in order if verdict in found),
    )


def _stage(name: str, reports: Sequence[Report]) -> FoldedStageRecord:
    of_folds = [next((stage for stage in report.stages if stage.stage == name), None) for report in reports]
    qualities = [stage.quality if stage else None for stage in of_folds]
    latencies = [stage.latency if stage else None for stage in of_folds]
    figures = {
        "quality": _mean([quality.value if quality else None for quality in qualities]),
        "params": _mean([stage.params if stage else None for stage in of_folds]),
        "latency_ratio_to_teacher": _mean([latency.ratio_to_teacher if latency else None for latency in latencies]),
    }
    metrics = [quality.metric for quality in qualities if quality]
    return FoldedStageRecord(
        stage=name,
        **({"metric": metrics[0]} if metrics else {}),
        **{key: figure for key, figure in figures.items() if figure},
    )


def _mean(values: Sequence[float | None]) -> MeanRecord | None:
    """Mean and 95 % interval over the folds that have the figure; one fold alone has no interval, none no mean."""
    from scipy.special import stdtrit

    known = np.array([value for value in values if value is not None], np.float64)
    if not len(known):
        return None
    mean = MeanRecord(mean=float(known.mean()), values=list(values))
    if len(known) == 1:
        return mean
    reach = float(stdtrit(len(known) - 1, 0.975)) * float(known.std(ddof=1)) / len(known) ** 0.5
    return mean.model_copy(update={"ci95": (mean.mean - reach, mean.mean + reach)})
