"""Export: the engine of one target, built from the best graph for it and held against its parent.

``choice.py`` takes the precision, ``verification.py`` compares graphs, ``engines.py`` builds, ``parts.py`` makes
engines of fewer modalities, and encoders and head apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmedge.artifact import Artifact, creating, read
from mmedge.backends.sessions import can_run, opened
from mmedge.errors import MmedgeError
from mmedge.models.load import contract_of
from mmedge.recipe import TargetOptions, precision_of
from mmedge.stages.export import choice, engines, parts
from mmedge.stages.export.verification import GRAPH, reference, verify
from mmedge.training.context import Context


def export(parent: Artifact, config: TargetOptions, context: Context, target: Path, key: str, *, name: str) -> Artifact:
    """Build the engine of the target ``name`` and compare it with the parent over every test sample and subset.

    Where the target can be run here its own engine is compared; elsewhere the graph that it is built from.
    """
    contract = contract_of(parent)
    test = context.dataset.test.only(tuple(contract.modalities))
    with (
        creating(target, stage=f"export-{name}", key=key, parent=parent.sha256) as (folder, meta),
        _told(parent, folder),
    ):
        context.progress.say(f"export: building for {name}")
        meta |= {
            **{field: parent.meta[field] for field in ("contract", "params", "macs", "recipe")},
            "target": name,
        }
        notes: list[str] = []
        wanted: str | None = config.precision
        runs = name != "onnxruntime-cpu" and can_run(name)
        if runs:
            wanted, meta["latency"] = choice.measured(parent, config, context, folder, name, notes)
        candidate = choice.choose(parent, wanted, name, folder / GRAPH, notes, measured="latency" in meta)
        chosen = precision_of(candidate)
        engine = engines.build(folder / GRAPH, contract, config, context, name, chosen, notes)
        if engine is not None:
            meta["engine"] = engine
        file = folder / (engine["file"] if engine else GRAPH)
        built_here = opened(file, name, host_code=True) if runs else None
        agreements = verify(reference(parent), folder / GRAPH, contract, test, chosen, built_here, name)
        meta |= {"precision": chosen, "candidate": candidate, "notes": notes}
        meta["verification"] = [agreement.record() for agreement in agreements]
        cuts, built = context.recipe.export, dict[str, Any]()
        if len(contract.modalities) > 1:
            job = parts.Job(folder, contract, config, context, name, chosen, test, notes, built)
            if cuts.per_subset:
                meta["subsets"] = parts.per_subset(job)
            if cuts.split:
                meta["split"] = parts.split(job)
        if built:
            meta["engine"] |= {"parts": built}
    return read(target)


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


def record(artifact: Artifact) -> dict[str, Any]:
    """What the bundle says of this engine; files of subsets and parts are relative to ``base`` in the bundle."""
    name = artifact.meta["target"]
    base = "" if name == "onnxruntime-cpu" else f"{name}/"
    out: dict[str, Any] = {"precision": artifact.meta["precision"], "file": f"{base}{GRAPH}"}
    if "engine" in artifact.meta:
        out["engine"] = artifact.meta["engine"]
    if subsets := artifact.meta.get("subsets"):
        out["subsets"] = {key: f"{base}{entry['file']}" for key, entry in subsets.items()}
        out["subset_latency"] = {
            key: {"p50_ms": entry["p50_ms"], "ratio_to_all": entry["ratio_to_all"]}
            for key, entry in subsets.items()
            if "p50_ms" in entry
        }
    if "split" in artifact.meta:
        files = {part: f"{base}{file}" for part, file in artifact.meta["split"]["files"].items()}
        out["split"] = {"files": files, "embeddings": artifact.meta["split"]["embeddings"]}
    return out


def files(artifact: Artifact) -> list[tuple[str, str]]:
    """(file in the artifact, file in the bundle) of all that the bundle takes of this engine."""
    entry, name = record(artifact), artifact.meta["target"]
    base, engine = "" if name == "onnxruntime-cpu" else f"{name}/", entry.get("engine", {})
    # What engines are built from goes along, so that a device can build them again.
    built = [*engine.get("files", []), *(part["graph"] for part in engine.get("parts", {}).values())]
    taken = [entry["file"], *(f"{base}{file}" for file in built)]
    taken += [*entry.get("subsets", {}).values(), *entry.get("split", {}).get("files", {}).values()]
    return [(file.removeprefix(base), file) for file in taken]


def measured_file(artifact: Artifact) -> tuple[Path, str]:
    """(file, target) that an artifact's quality is judged on: its own engine where it runs here, else its graph."""
    target = artifact.meta.get("target", "onnxruntime-cpu")
    if target == "onnxruntime-cpu" or not can_run(target):
        return artifact.file(GRAPH), "onnxruntime-cpu"
    return artifact.file(artifact.meta.get("engine", {}).get("file", GRAPH)), target
