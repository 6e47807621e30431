"""Cross-validation: the recipe once a fold, each in a folder of its own, and the means with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmedge import __version__
from mmedge.artifact import write_json
from mmedge.errors import UsageError
from mmedge.pipeline import fold
from mmedge.pipeline.concluding import Outcome
from mmedge.progress import Progress
from mmedge.recipe import Recipe
from mmedge.training.loop import processes

REPORT = "folds.json"
NOTE = (
    "intervals are Student's t over the folds; their training splits overlap, so that the true ones are somewhat wider"
)


def run_folds(recipe: Recipe, out: Path, *, code: Path, progress: Progress) -> list[Outcome]:
    """Run every fold of ``data.fold`` into ``out/fold-N``, and write ``out/folds.json``; the outcomes in order.

    An interrupted call goes on where it stopped. Raises UsageError where the recipe has no ``data.fold``.
    """
    asked = recipe.data.fold
    if asked is None:
        raise UsageError(
            "--folds all needs the number of folds",
            where="data.fold",
            todo="write fold: {k: 5, index: 0} under data; every index is run",
        )
    outcomes = []
    for index in range(asked.k):
        progress.say(f"fold {index + 1} of {asked.k}")
        data = recipe.data.model_copy(update={"fold": asked.model_copy(update={"index": index})})
        one = recipe.model_copy(update={"data": data})
        outcomes.append(fold.run(one, folder_of(out, index), code=code, progress=progress))
    if processes.is_main():
        write_json(out / REPORT, summary(recipe.name, [outcome.report for outcome in outcomes]))
    return outcomes


def folder_of(out: Path, index: int) -> Path:
    """Where a fold is run."""
    return out / f"fold-{index}"


def summary(name: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``folds.json`` holds: each stage's quality, size and latency to the teacher as mean, interval and values a fold."""
    stages = []
    for stage in dict.fromkeys(stage["stage"] for report in reports for stage in report["stages"]):
        of_folds: list[dict[str, Any]] = [
            next((s for s in report["stages"] if s["stage"] == stage), {}) for report in reports
        ]
        figures = {
            "quality": [one.get("quality", {}).get("value") for one in of_folds],
            "params": [one.get("params") for one in of_folds],
            "latency_ratio_to_teacher": [one.get("latency", {}).get("ratio_to_teacher") for one in of_folds],
        }
        metric = next((one["quality"]["metric"] for one in of_folds if "quality" in one), None)
        told = {key: _figure(values) for key, values in figures.items() if any(v is not None for v in values)}
        stages.append({"stage": stage, **({"metric": metric} if metric else {}), **told})
    failed = [index for index, report in enumerate(reports) if report["verdict"] != "pass"]
    return {
        "schema": 1,
        "mmedge": __version__,
        "recipe": name,
        "folds": [
            {"fold": index, "report": f"{folder_of(Path(), index)}/report.json", "verdict": report["verdict"]}
            for index, report in enumerate(reports)
        ],
        "stages": stages,
        "notes": [NOTE],
        "verdict": "fail" if failed else "pass",
    }


def _figure(values: list[float | None]) -> dict[str, Any]:
    """Mean and 95 % interval over the folds that have the figure; one fold alone has no interval."""
    from scipy.special import stdtrit

    known = np.array([value for value in values if value is not None], np.float64)
    told: dict[str, Any] = {"mean": float(known.mean()), "values": values}
    if len(known) > 1:
        reach = float(stdtrit(len(known) - 1, 0.975)) * float(known.std(ddof=1)) / len(known) ** 0.5
        told["ci95"] = [told["mean"] - reach, told["mean"] + reach]
    return told
