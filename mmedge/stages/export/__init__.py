"""Export: the engine of one backend, built from the best graph for it and held against its parent.

``choice.py`` takes the precision, ``verification.py`` compares graphs, ``engines.py`` builds, ``parts.py`` makes
engines of fewer modalities, and encoders and head apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmedge import bundle as bundles
from mmedge.artifact import GRAPH, Artifact
from mmedge.backends import GRAPH_BACKEND, Options, Session, can_run, find, opened
from mmedge.backends.engine import Engine
from mmedge.data.store.samples import Samples
from mmedge.errors import MismatchError, MmedgeError
from mmedge.measure.agreement import Agreement
from mmedge.models.load import contract_of
from mmedge.recipe import precision_of
from mmedge.report.schema import LatencyRecord
from mmedge.stages.export import choice, engines, parts, towers
from mmedge.stages.export.engines import ExportWork
from mmedge.stages.export.verification import reference, verify
from mmedge.stages.preference import best_kept
from mmedge.stages.results import ExportResult, SplitRecord, StageResult, SubsetRecord
from mmedge.training.context import Context


def export(parent: Artifact, config: Options, context: Context) -> ExportResult:
    """Build the engine of the context's backend and compare it with the parent over every test sample and subset.

    A precision that measurement chose, and that the recipe does not require, gives way as ``export.on_miss`` says where it
    differs too much. Raises MismatchError where one that it requires does, or FP32, or nothing is to give way.
    """
    notes = [f"{key!r} is no option of {context.part}, and is not heeded" for key in config.unheeded]
    work = ExportWork(find(context.part), config, contract_of(parent), context, notes)
    left, wanted = parent, config.precision
    while True:
        with _of_parent(left, context.folder):
            candidate, latency, runs = _chosen(work, left, wanted)
            try:
                return _built(work, left, candidate, latency, runs=runs)
            except MismatchError as error:
                after = _next(left, candidate, config, context)
                if after is None:
                    raise
                notes.append(f"{candidate} is not taken: {error.what}")
        left = after
        # Where nothing is measured the recipe decides, and it names none.
        wanted = "fp32" if context.part != GRAPH_BACKEND and not runs else None


def _next(parent: Artifact, failed: str, config: Options, context: Context) -> Artifact | None:
    """The parent without the candidates that are not to be tried any more; None where the failure is to be told."""
    recipe, rows = context.recipe, choice.candidates_of(parent)
    required = recipe.quantize.require if recipe.quantize else None
    if config.precision or required or failed == "fp32" or recipe.export.on_miss == "stop":
        return None
    left = [row for name, row in rows.items() if name == "fp32" or (row.kept and name != failed)]
    if recipe.export.on_miss == "keep-parent":
        left = [row for row in left if row.precision == "fp32"]
    best = best_kept(left, recipe.prefer).precision if left else "fp32"
    return replace(parent, meta={**parent.meta, "precision": best, "candidates": [row.record() for row in left]})


def _chosen(work: ExportWork, parent: Artifact, wanted: str | None) -> tuple[str, LatencyRecord | None, bool]:
    """(the candidate whose graph is now in the stage's folder, its latency where it was measured, whether the backend runs here)."""
    name, folder = work.backend.name, work.context.folder
    work.context.progress.say(f"export: building for {name}")
    latency, runs = None, name != GRAPH_BACKEND and can_run(name)
    if runs:
        wanted, latency = choice.measured(work, parent, folder)
    elif name != GRAPH_BACKEND:  # the graph's own was chosen by what is required
        wanted = wanted or work.required
    return choice.choose(parent, wanted, work.backend, folder / GRAPH, work.notes, measured=runs), latency, runs


def _built(
    work: ExportWork, parent: Artifact, candidate: str, latency: LatencyRecord | None, *, runs: bool
) -> ExportResult:
    name, folder, chosen = work.backend.name, work.context.folder, precision_of(candidate)
    engine = engines.build(work, folder / GRAPH, chosen)
    file = folder / (engine.file if engine else GRAPH)
    built_here = opened(file, name, host_code=True) if runs else None
    agreements = _verified(work, parent, chosen, built_here)
    cuts = _cut(work, chosen, engine)
    verification = [agreement.record() for agreement in agreements]
    built = {"target": name, "precision": chosen, "candidate": candidate, "verification": verification}
    more: dict[str, Any] = {"latency": latency, "subsets": cuts.subsets, "split": cuts.split, "engine": cuts.engine}
    more |= {"misses": work.misses or None}
    more |= {"towers": towers.alone(work, chosen), "zero_shot": towers.labels(work)}
    return ExportResult.of(StageResult.like(parent, work.notes), **built, **more)


def _verified(work: ExportWork, parent: Artifact, chosen: str, engine: Session | None) -> list[Agreement]:
    """Compare with the parent; raises MismatchError beyond the precision's tolerance."""
    graph, gpu = work.context.folder / GRAPH, engine is not None and work.backend.gpu
    return verify(reference(parent), graph, work.contract, _test(work), chosen, engine, gpu=gpu)


@dataclass(frozen=True)
class _Shipped:
    """The whole engine, None where the backend runs the graph, and what ships beside it as the recipe asks for it."""

    engine: Engine | None
    subsets: dict[str, SubsetRecord] | None = None
    split: SplitRecord | None = None


def _cut(work: ExportWork, chosen: str, engine: Engine | None) -> _Shipped:
    """The ``engine`` with those of ``subsets`` and parts (``split``); it remembers what was built of them."""
    config = work.context.recipe.export
    if len(work.contract.modalities) == 1:
        return _Shipped(engine)
    whole = engine.file if engine and not work.backend.runs_graphs else GRAPH
    cuts = parts.Cuts(work, work.context.folder, whole, chosen, _test(work))
    subsets = parts.per_subset(cuts) if config.per_subset else None
    split = parts.split(cuts) if config.split else None
    built = engine.model_copy(update={"parts": cuts.built}) if engine and cuts.built else engine
    return _Shipped(built, subsets, split)


def _test(work: ExportWork) -> Samples:
    return work.context.dataset.test.only(tuple(work.contract.modalities))


@contextmanager
def _of_parent(parent: Artifact, folder: Path) -> Iterator[None]:
    """An error about a graph in ``folder``, which does not outlive it, names the parent's instead: its nodes have the same names."""
    try:
        yield
    except MmedgeError as error:
        graph, comma, sample = (error.where or "").partition(", ")
        if not graph.startswith(str(folder)):
            raise
        raise type(error)(error.what, where=f"{reference(parent)}{comma}{sample}", todo=error.todo) from error


def entry(artifact: Artifact) -> bundles.Entry:
    """What the bundle says of this engine."""
    made, base = ExportResult.model_validate(artifact.meta), _base(artifact)
    shipped = bundles.Entry(precision=made.precision, file=f"{base}{GRAPH}")
    engine = made.towers.engine if made.towers else made.engine
    if engine:
        shipped = shipped.model_copy(update={"engine": engine})
    if made.subsets:
        latency = {
            key: bundles.SubsetLatency(p50_ms=subset.p50_ms, ratio_to_all=subset.ratio_to_all)
            for key, subset in made.subsets.items()
            if subset.p50_ms is not None and subset.ratio_to_all is not None
        }
        files = {key: f"{base}{subset.file}" for key, subset in made.subsets.items()}
        shipped = shipped.model_copy(update={"subsets": files, "subset_latency": latency})
    if made.split:
        files = {part: f"{base}{file}" for part, file in made.split.files.items()}
        split = bundles.Split.model_validate({"files": files, "embeddings": made.split.embeddings})
        shipped = shipped.model_copy(update={"split": split})
    return shipped


def files(artifact: Artifact) -> list[tuple[str, str]]:
    """(file in the artifact, file in the bundle) of all that the bundle takes of this engine."""
    shipped, base = entry(artifact), _base(artifact)
    # What engines are built from goes along, so that a device can build them again.
    built = [*shipped.engine.files, *(part.graph for part in shipped.engine.parts.values())] if shipped.engine else []
    taken = [shipped.file, *(f"{base}{file}" for file in built), *shipped.subsets.values()]
    taken += shipped.split.files.values() if shipped.split else ()
    made = ExportResult.model_validate(artifact.meta)
    # Towers alone stand in the bundle in place of the whole.
    place = f"{towers.FOLDER}/" if made.towers else ""
    found = [(f"{place}{file.removeprefix(base)}", file) for file in taken]
    return [*found, *([(made.zero_shot.file, made.zero_shot.file)] if made.zero_shot else [])]


def shipped(artifact: Artifact) -> dict[str, Any]:
    """What a bundle promises that ships this engine: its contract, and the labels that it has vectors of."""
    made = ExportResult.model_validate(artifact.meta)
    contract = made.towers.contract if made.towers else made.contract
    return {"contract": contract, **({"zero_shot": made.zero_shot} if made.zero_shot else {})}


def _base(artifact: Artifact) -> str:
    """Where its files stand in a bundle."""
    name = artifact.meta["target"]
    return "" if name == GRAPH_BACKEND else f"{name}/"


def measured_file(artifact: Artifact) -> tuple[Path, str]:
    """(file, backend) that an artifact's quality is judged on: its own engine where it runs here, else its graph."""
    backend = artifact.meta.get("target", GRAPH_BACKEND)
    if backend == GRAPH_BACKEND or not can_run(backend):
        return artifact.file(GRAPH), GRAPH_BACKEND
    return artifact.file(artifact.meta.get("engine", {}).get("file", GRAPH)), backend
