"""Building a bundle's engines again, on the device that runs them, from the ONNX graphs in the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmedge import artifact
from mmedge import bundle as bundles
from mmedge.backends import openvino_cpu, tensorrt
from mmedge.backends.sessions import can_run, opened
from mmedge.errors import UsageError
from mmedge.profiling import feeds
from mmedge.profiling.timing import spans, summary
from mmedge.progress import Progress, Silent
from mmedge.spec import Contract

# Rounds in which the engines of subsets are timed beside the whole one.
_RUNS = 200


def rebuild(path: Path, *, targets: Sequence[str] = (), progress: Progress | None = None) -> dict[str, Any]:
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
    having = [name for name in found.meta.get("targets", ()) if "engine" in bundles.target_of(found, name)]
    for name in targets:
        if name not in having:
            raise UsageError(
                f"the bundle has no engine for {name!r} to rebuild; it has {', '.join(having) or 'none'}",
                where=str(path),
                todo="the others run their ONNX graph as it is",
            )
    wanted = list(targets) or having
    if not wanted:
        raise UsageError("the bundle has no engine to rebuild: it runs its ONNX graph as it is", where=str(path))
    with bundles.rewriting(found) as (folder, meta):
        for name in wanted:
            progress.say(f"rebuild: building for {name}")
            graph, old = folder / name / "model.onnx", found.meta["targets"][name]["engine"]
            for file in (old["file"], "model.onnx", *(part["graph"] for part in old.get("parts", {}).values())):
                bundles.listed_file(found, f"{name}/{file}")  # what the manifest does not vouch for may lie anywhere
            if name in tensorrt.PACKAGES:
                timings = path.resolve().with_name(f"{path.resolve().name}.{name}.timing-cache")
                built = _tensorrt(folder / name, old, contract, name, timings)
                tensorrt.check_precision(built, found.meta["targets"][name]["precision"], name)
            else:
                built = openvino_cpu.build(graph, folder / name / old["file"])
            entry = {key: old[key] for key in ("file", "files", "precision") if key in old} | built
            entry |= {
                "graph_sha256": artifact.sha256_of(graph),
                "preprocessing_sha256": bundles.preprocessing_sha256(contract),
            }
            told = found.meta["targets"][name] | {"engine": entry}
            meta["targets"] = meta["targets"] | {name: told | _subsets_timed(folder, told, name)}
    return {name: artifact.read(path).meta["targets"][name]["engine"] for name in wanted}


def _tensorrt(folder: Path, old: Mapping[str, Any], contract: Contract, target: str, timings: Path) -> dict[str, Any]:
    """Build the engine of the whole graph, and those of subsets and parts, with the options that they were built with."""
    options = tensorrt.Options(
        workspace_mb=old.get("workspace_mb"),
        level=old.get("level"),
        timing_cache=timings,
        version_compatible=old.get("version_compatible", False),
        hardware_compatible=old.get("hardware_compatible", False) and target != "tensorrt-rtx",
    )
    profiles = old.get("profiles") or tensorrt.profiles_of(contract)
    built = tensorrt.build(
        folder / "model.onnx", folder / old["file"], target=target, profiles=profiles, options=options
    )
    parts = [
        tensorrt.build_part(folder, part["graph"], target=target, profiles=part["profiles"], options=options)
        for part in old.get("parts", {}).values()
    ]
    return built | ({"parts": dict(parts)} if parts else {})


def _subsets_timed(folder: Path, entry: Mapping[str, Any], target: str) -> dict[str, Any]:
    """What the bundle then says of the engines of subsets, timed here beside the whole one; nothing where they cannot be.

    Those that are no faster than the whole are no longer picked: they may have been built where nothing could be timed.
    """
    if target not in tensorrt.PACKAGES or not entry.get("subsets") or not can_run(target):
        return {}
    files = {"": bundles.engine_file(entry, target), **entry["subsets"]}
    calls = {}
    for key, file in files.items():
        session = opened(folder / file, target, host_code=True)
        shapes = {given: tuple(entry["engine"]["profiles"][given][1][1:]) for given in session.inputs}
        calls[key] = partial(session.run, feeds.tensors(session.inputs, 1, shapes))
    p50 = {key: summary(times).p50_ms for key, times in spans(calls, runs=_RUNS, warmup=_RUNS // 10).items()}
    latency = {key: {"p50_ms": p50[key], "ratio_to_all": p50[key] / p50[""]} for key in entry["subsets"]}
    kept = {key for key, one in latency.items() if one["ratio_to_all"] < 1}
    return {
        "subsets": {key: file for key, file in entry["subsets"].items() if key in kept},
        "subset_latency": {key: latency[key] for key in kept},
    }
