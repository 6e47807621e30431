"""The bundle of a run: what ships."""

from __future__ import annotations

from mmedge import artifact as artifacts
from mmedge import bundle as bundles
from mmedge.artifact import hash_json
from mmedge.backends import GRAPH_BACKEND
from mmedge.pipeline.ran import Ran
from mmedge.report.schema import Report
from mmedge.training.context import Context

# What a bundle tells of each of its engines.
_FIGURES = ("quality", "subsets", "latency", "params", "macs", "size_bytes", "privacy", "notes")


def write_bundle(ran: list[Ran], report: Report, context: Context) -> None:
    """The graph, engines for other targets beside it, preprocessing, labels and measured figures, where the graph is there."""
    records = {stage.stage: stage.record() for stage in report.stages}
    engines = {done.stage: done.artifact for done in ran if done.step.ends and done.artifact}
    first = next((made for made in engines.values() if made.meta["target"] == GRAPH_BACKEND), None)
    if first is None:
        return
    measured = {
        made.meta["target"]: {field: records[stage][field] for field in _FIGURES if field in records[stage]}
        for stage, made in engines.items()
    }
    heat = {
        stage.stage: {"temperatures": {head: found.temperature for head, found in stage.temperatures.items()}}
        for stage in report.stages
        if stage.temperatures
    }
    key = hash_json([[made.sha256 for made in engines.values()], measured, report.verdict, *([heat] if heat else [])])
    path = context.out / "bundle"
    if artifacts.unchanged(path, key, context.progress.say):
        return
    from mmedge.stages import export

    contents = bundles.Contents(
        name=context.recipe.name,
        **export.shipped(first),
        targets={
            made.meta["target"]: export.entry(made).model_copy(update=heat.get(stage, {}))
            for stage, made in engines.items()
        },
        figures=measured,
        verdict=report.verdict,
        data=report.data.source,
    )
    files = {name: made.file(file) for made in engines.values() for file, name in export.files(made)}
    bundles.write(path, contents, files, key=key, parent=first.sha256)
