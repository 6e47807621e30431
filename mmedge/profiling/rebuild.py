"""Building a bundle's engines again, on the device that runs them, from the ONNX graphs in the bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmedge import artifact, backends
from mmedge import bundle as bundles
from mmedge.artifact import Artifact, not_understood
from mmedge.backends import can_run, opened
from mmedge.backends.backend import Job
from mmedge.backends.engine import Engine, Profiles, part_of, profiles_of
from mmedge.bundle import GRAPH, Entry, SubsetLatency
from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.profiling import feeds
from mmedge.profiling.timing import sittings, summary
from mmedge.progress import Progress, Silent

# Rounds in which the engines of subsets are timed beside the whole one.
_RUNS = 200


def rebuild(path: Path, *, targets: Sequence[str] = (), progress: Progress | None = None) -> dict[str, Engine]:
    """Rebuild the engines of a bundle's folder in place; returns {target: what was built}.

    ``targets``: only these. The graphs and all else stay as they are; a signature, which covered the old engines, is
    dropped. Raises UsageError where there is nothing to build, MissingDependency where a builder is not installed.
    """
    if path.is_file():
        raise UsageError(
            "a zipped bundle is not rebuilt in place", where=str(path), todo=f"unzip {path} -d FOLDER, and rebuild that"
        )
    progress = progress or Silent()
    found = bundles.read(path).artifact
    contract = artifact.contract_of(found)
    engines = _engines(found, targets)
    built = {}
    with bundles.rewriting(found) as (folder, meta):
        for name, old in engines.items():
            progress.say(f"rebuild: building for {name}")
            entry = bundles.entry_of(found, name)
            # Beside the bundle: what was timed for one build serves the next.
            timings = path.resolve().with_name(f"{path.resolve().name}.{name}.timing-cache")
            built[name] = _built(found, folder / name, old, entry.precision, name, timings, contract)
            entry = _subsets_timed(folder, entry.model_copy(update={"engine": built[name]}), name)
            meta["targets"] = meta["targets"] | {name: entry.record()}
    return built


def _engines(found: Artifact, targets: Sequence[str]) -> dict[str, Engine]:
    """{target: the engine that the bundle has for it}, of all or of ``targets``."""
    entries = {name: bundles.entry_of(found, name) for name in found.meta.get("targets", ())}
    having = {name: entry.engine for name, entry in entries.items() if entry.engine is not None}
    for name in targets:
        if name not in having:
            raise UsageError(
                f"the bundle has no engine for {name!r} to rebuild; it has {', '.join(having) or 'none'}",
                where=str(found.path),
                todo="the others run their ONNX graph as it is",
            )
    if not having:
        raise UsageError("the bundle has no engine to rebuild: it runs its ONNX graph as it is", where=str(found.path))
    return {name: having[name] for name in targets or having}


def _built(
    found: Artifact, folder: Path, old: Engine, precision: str, name: str, timings: Path, contract: Contract
) -> Engine:
    """Build the engine of the whole graph, and those of subsets and parts, with the options that they were built with."""
    backend = backends.find(name)
    if backend.build is None:
        raise UsageError(
            f"{name} runs its ONNX graph as it is, and the manifest says that it has an engine", where=str(found.path)
        )
    for file in (old.file, GRAPH, *(part.graph for part in old.parts.values())):
        bundles.listed_file(found, f"{name}/{file}")  # what the manifest does not vouch for may lie anywhere
    record = old.record()
    try:
        options = backend.options.model_validate(
            {field: record[field] for field in backend.options.model_fields if record.get(field) is not None}
        )
    except ValidationError as error:
        raise not_understood(found, f"targets.{name}.engine", error) from None
    profiles = old.profiles or profiles_of(contract)
    built = backends.built(
        backend, Job(folder / GRAPH, old.file.partition(".")[0], profiles, options, precision, timings)
    )
    parts = {}
    for file, part in old.parts.items():
        graph = folder / part.graph
        made = backends.built(backend, Job(graph, Path(part.graph).stem, part.profiles, options, None, timings))
        parts[file] = part_of(folder, part.graph, made)
    built = bundles.belonging(built, precision, folder / GRAPH, contract)
    return built.model_copy(update={"parts": parts}) if parts else built


def _subsets_timed(folder: Path, entry: Entry, backend: str) -> Entry:
    """The entry with the engines of subsets timed here beside the whole one; as it is where they cannot be.

    Those that are no faster than the whole are no longer picked: they may have been built where nothing could be timed.
    """
    profiles = entry.engine.profiles if entry.engine else None
    if backends.find(backend).runs_graphs or not profiles or not entry.subsets or not can_run(backend):
        return entry
    files = {"": entry.opened_file(backend), **entry.subsets}
    taken = sittings(
        {key: partial(_call, folder / file, backend, profiles) for key, file in files.items()},
        runs=_RUNS,
        warmup=_RUNS // 10,
    )
    p50 = {key: summary(times).p50_ms for key, times in taken.items()}
    latency = {key: SubsetLatency(p50_ms=p50[key], ratio_to_all=p50[key] / p50[""]) for key in entry.subsets}
    kept = {key for key, one in latency.items() if one.ratio_to_all < 1}
    return entry.model_copy(
        update={
            "subsets": {key: file for key, file in entry.subsets.items() if key in kept},
            "subset_latency": {key: latency[key] for key in kept},
        }
    )


def _call(file: Path, backend: str, profiles: Profiles) -> Callable[[], Any]:
    """An engine opened, with tensors of the size that it is optimised for."""
    session = opened(file, backend, host_code=True)
    shapes = {given: tuple(profiles[given][1][1:]) for given in session.inputs}
    return partial(session.run, feeds.tensors(session.inputs, 1, shapes))
