"""Export: the engine of one backend, built from the best graph for it and held against its parent.

``choice.py`` takes the precision, ``verification.py`` compares graphs, ``engines.py`` builds, ``parts.py`` makes
engines of fewer modalities, and encoders and head apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmedge import bundle as bundles
from mmedge.artifact import Artifact
from mmedge.backends import GRAPH_BACKEND, Options, Session, can_run, find, opened
from mmedge.backends.engine import Engine
from mmedge.data.store.samples import Samples
from mmedge.errors import MismatchError, MmedgeError
from mmedge.measure.agreement import Agreement
from mmedge.models.load import contract_of
from mmedge.recipe import precision_of
from mmedge.stages.export import choice, engines, parts
from mmedge.stages.export.engines import ExportWork
from mmedge.stages.export.verification import GRAPH, reference, verify
from mmedge.stages.results import ExportResult
from mmedge.training.context import Context


def export(parent: Artifact, config: Options, context: Context) -> ExportResult:
    """Build the engine of the context's backend and compare it with the parent over every test sample and subset.

    A precision that measurement chose, and nobody asked for, gives way to FP32 where it differs too much. Raises
    MismatchError where one that was asked for does, or FP32.
    """
    try:
        return _exported(parent, config, context, [])
    except MismatchError as error:
        required = context.recipe.quantize.require if context.recipe.quantize else None
        if config.precision or required or parent.meta.get("precision", "fp32") == "fp32":
            raise
        left = [row for row in parent.meta["candidates"] if row["precision"] == "fp32"]
        plain = replace(parent, meta={**parent.meta, "precision": "fp32", "candidates": left})
        return _exported(plain, config, context, [f"{parent.meta['precision']} is not taken: {error.what}"])


def _exported(parent: Artifact, config: Options, context: Context, notes: list[str]) -> ExportResult:
    """Where the backend can be run here its own engine is compared; elsewhere the graph that it is built from."""
    name, folder = context.part, context.folder
    work = ExportWork(find(name), config, contract_of(parent), context, notes)
    with _told(parent, folder):
        context.progress.say(f"export: building for {name}")
        wanted: str | None = config.precision
        latency, runs = None, name != GRAPH_BACKEND and can_run(name)
        if runs:
            wanted, latency = choice.measured(work, parent, folder)
        candidate = choice.choose(parent, wanted, work.backend, folder / GRAPH, work.notes, measured=runs)
        chosen = precision_of(candidate)
        engine = engines.build(work, folder / GRAPH, chosen)
        file = folder / (engine.file if engine else GRAPH)
        built_here = opened(file, name, host_code=True) if runs else None
        agreements = _verified(work, parent, chosen, built_here)
        cuts = _cut(work, chosen, engine)
    same = {field: parent.meta[field] for field in ("contract", "params", "macs", "recipe") if field in parent.meta}
    return ExportResult(
        **same,
        target=name,
        precision=chosen,
        candidate=candidate,
        notes=work.notes,
        verification=[agreement.record() for agreement in agreements],
        **({"latency": latency.record()} if latency else {}),
        **cuts,
    )


def _verified(work: ExportWork, parent: Artifact, chosen: str, engine: Session | None) -> list[Agreement]:
    """Compare with the parent; raises MismatchError beyond the precision's tolerance."""
    graph, gpu = work.context.folder / GRAPH, engine is not None and work.backend.gpu
    return verify(reference(parent), graph, work.contract, _test(work), chosen, engine, gpu=gpu)


def _cut(work: ExportWork, chosen: str, engine: Engine | None) -> dict[str, Any]:
    """The ``engine``, with what is to be known of those of ``subsets`` and parts (``split``), as the recipe asks for them."""
    asked, found = work.context.recipe.export, dict[str, Any]()
    if len(work.contract.modalities) > 1:
        whole = engine.file if engine and not work.backend.runs_graphs else GRAPH
        cuts = parts.Cuts(work, work.context.folder, whole, chosen, _test(work))
        if asked.per_subset:
            found["subsets"] = {key: made.record() for key, made in parts.per_subset(cuts).items()}
        if asked.split:
            found["split"] = parts.split(cuts)
        engine = engine.model_copy(update={"parts": cuts.built}) if engine and cuts.built else engine
    return found | ({"engine": engine} if engine else {})


def _test(work: ExportWork) -> Samples:
    return work.context.dataset.test.only(tuple(work.contract.modalities))


@contextmanager
def _told(parent: Artifact, folder: Path) -> Iterator[None]:
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
    meta, name = artifact.meta, artifact.meta["target"]
    base = "" if name == GRAPH_BACKEND else f"{name}/"
    told: dict[str, Any] = {"precision": meta["precision"], "file": f"{base}{GRAPH}"}
    if "engine" in meta:
        told["engine"] = meta["engine"]
    if subsets := meta.get("subsets"):
        told["subsets"] = {key: f"{base}{made['file']}" for key, made in subsets.items()}
        told["subset_latency"] = {
            key: {"p50_ms": made["p50_ms"], "ratio_to_all": made["ratio_to_all"]}
            for key, made in subsets.items()
            if "p50_ms" in made
        }
    if "split" in meta:
        files = {part: f"{base}{file}" for part, file in meta["split"]["files"].items()}
        told["split"] = {"files": files, "embeddings": meta["split"]["embeddings"]}
    return bundles.Entry.model_validate(told)


def files(artifact: Artifact) -> list[tuple[str, str]]:
    """(file in the artifact, file in the bundle) of all that the bundle takes of this engine."""
    told, name = entry(artifact), artifact.meta["target"]
    base = "" if name == GRAPH_BACKEND else f"{name}/"
    # What engines are built from goes along, so that a device can build them again.
    built = [*told.engine.files, *(part.graph for part in told.engine.parts.values())] if told.engine else []
    taken = [told.file, *(f"{base}{file}" for file in built), *told.subsets.values()]
    taken += told.split.files.values() if told.split else ()
    return [(file.removeprefix(base), file) for file in taken]


def measured_file(artifact: Artifact) -> tuple[Path, str]:
    """(file, backend) that an artifact's quality is judged on: its own engine where it runs here, else its graph."""
    backend = artifact.meta.get("target", GRAPH_BACKEND)
    if backend == GRAPH_BACKEND or not can_run(backend):
        return artifact.file(GRAPH), GRAPH_BACKEND
    return artifact.file(artifact.meta.get("engine", {}).get("file", GRAPH)), backend
