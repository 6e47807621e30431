"""What a run tells the trackers that follow it: its recipe as parameters, its figures, and its files."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import JsonValue

from mmedge.recipe import Recipe, portable
from mmedge.report.html import write_html
from mmedge.report.schema import Report, StageRecord
from mmedge.training.context import Context


def parameters_of(recipe: Recipe) -> dict[str, str]:
    """{key with dots: value} of everything that a recipe says, paths as names of files."""
    return dict(_flat("", portable(recipe)))


def _flat(name: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}".lstrip("."), inner)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)


def tell(report: Report, context: Context) -> None:
    """Figures, report and bundle; and the curves of stages that were taken as they are, to trackers that do not have them."""
    for stage in report.stages:
        if stage.learning and stage.status == "cached":
            columns = stage.learning.record()
            rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
            context.tracking.earlier(
                f"{stage.stage}/{stage.stage}", [{"epoch": number, **row} for number, row in enumerate(rows, 1)]
            )
    figures = {f"{stage.stage}/{name}": value for stage in report.stages for name, value in _figures(stage)}
    figures |= {f"controls/{control.name}/gain": control.gain for control in report.controls}
    page = context.out / "report.html"
    write_html(report, page, context.out / ".work" / "pictures")
    files = {path.name: path for path in (context.out / "report.json", page, context.out / "bundle") if path.exists()}
    context.tracking.finish(figures, files)


def _figures(stage: StageRecord) -> Iterator[tuple[str, float]]:
    """What was measured of a stage."""
    for split, quality in (("validation", stage.quality_validation), ("test", stage.quality)):
        if quality is not None:
            yield f"{quality.metric} on {split}", quality.value
    for subset, value in (stage.subsets or {}).items():
        yield f"subsets/{subset}", value
    for head, found in (stage.heads or {}).items():
        if found.quality is not None:
            yield f"heads/{head}/{found.quality.metric}", found.quality.value
    for name in ("params", "macs", "size_bytes", "seconds"):
        if (count := getattr(stage, name)) is not None:
            yield name, count
    if stage.latency is not None:
        for name in ("p50_ms", "p95_ms", "p99_ms", "ratio_to_teacher", "ratio_to_parent"):
            if (time := getattr(stage.latency, name)) is not None:
                yield f"latency/{name}", time
