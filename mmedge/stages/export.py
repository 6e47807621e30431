"""Export: the engine of one target, built from the best graph for it and held against its parent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.artifact import Artifact, creating, read, sha256_of
from mmedge.data.samples import Samples
from mmedge.errors import MismatchError, MmedgeError
from mmedge.graph import cut, qdq
from mmedge.graph import precision as precisions
from mmedge.graph.bisect import first_difference
from mmedge.graph.export import Agreement, compare
from mmedge.measure.latency import one_sample, time_sessions
from mmedge.measure.lengths import check_trimmed
from mmedge.measure.quality import predict_graph
from mmedge.models.load import contract_of
from mmedge.recipe import TargetOptions, precision_of
from mmedge.runtime.bundle import preprocessing_sha256
from mmedge.runtime.sessions import can_run, opened
from mmedge.runtime.targets import onnxruntime_cpu, openvino_cpu, tensorrt
from mmedge.runtime.targets.session import Session
from mmedge.spec import Contract, subsets
from mmedge.training.context import Context

GRAPH, ENGINE = "model.onnx", "engine.plan"
# Stated tolerances against the FP32 parent: (largest difference relative to the largest output, least top-1 agreement).
TOLERANCES: dict[str, tuple[float, float]] = {"fp32": (1e-4, 0.999), "fp16": (2e-2, 0.98), "int8": (0.5, 0.90)}
# Another precision, or a subset's engine, must be faster by this share to be taken.
_NOISE = 0.05


def export(parent: Artifact, config: TargetOptions, context: Context, target: Path, key: str, *, name: str) -> Artifact:
    """Build the engine of the target ``name`` and compare it with the parent over every test sample and subset.

    Where the target can be run here its own engine is compared; elsewhere the graph that it is built from.
    """
    contract = contract_of(parent)
    test = context.dataset.test.only(tuple(contract.modalities))
    with creating(target, stage=f"export-{name}", key=key, parent=parent.sha256) as (folder, meta):
        context.progress.say(f"export: building for {name}")
        meta |= {
            **{field: parent.meta[field] for field in ("contract", "params", "macs", "recipe")},
            "target": name,
        }
        notes: list[str] = []
        wanted: str | None = config.precision
        if name == "openvino-cpu" or (name == "onnxruntime-cuda" and can_run(name)):
            wanted, meta["latency"] = _measured(parent, config, context, folder, name, notes)
        candidate = _choose(parent, wanted, name, folder / GRAPH, notes, measured="latency" in meta)
        chosen = precision_of(candidate)
        engine = _build(folder, contract, config, context, name, chosen)
        if engine is not None:
            meta["engine"] = engine
        runnable = opened(folder / engine["file"], name) if name == "openvino-cpu" and engine else None
        agreements = verify(_reference(parent), folder / GRAPH, contract, test, chosen, runnable)
        meta |= {"precision": chosen, "candidate": candidate, "notes": notes}
        meta["verification"] = [agreement.record() for agreement in agreements]
        if name in ("onnxruntime-cpu", "openvino-cpu"):
            cuts = context.recipe.export
            if cuts.per_subset and len(contract.modalities) > 1:
                meta["subsets"] = _per_subset(folder, contract, context, name, test, chosen, notes)
            if cuts.split and len(contract.modalities) > 1:
                meta["split"] = _split(folder, contract, name, test, chosen)
    return read(target)


def _measured(
    parent: Artifact, config: TargetOptions, context: Context, folder: Path, name: str, notes: list[str]
) -> tuple[str, dict[str, Any]]:
    """The fastest of the parent's kept candidates on the target itself, and its latency, in one interleaved run with the
    teacher and the parent on ONNX Runtime."""
    measure = context.recipe.measure
    work = folder / ".timed"
    work.mkdir()
    kept = [row["precision"] for row in parent.meta.get("candidates", []) if row["kept"]] or ["fp32"]
    if config.precision is not None:
        kept = [name for name in kept if precision_of(name) == config.precision] or [config.precision]
    sessions = {f"{name} {precision}": _candidate(parent, precision, name, work, measure.threads) for precision in kept}
    sessions["parent"] = onnxruntime_cpu.session(parent.file(GRAPH), threads=measure.threads)
    if context.teacher is not None:
        sessions["teacher"] = onnxruntime_cpu.session(context.teacher.file(GRAPH), threads=measure.threads)
    timings = time_sessions(sessions, one_sample(context.dataset.test, measure.batch), measure, context.progress)
    shutil.rmtree(work)
    p50 = {precision: timings[f"{name} {precision}"].p50_ms for precision in kept}
    best = min(kept, key=lambda precision: p50[precision])
    if "fp32" in kept and p50[best] > p50["fp32"] * (1 - _NOISE):
        best = "fp32"
    for precision in kept:
        if precision != best:
            notes.append(f"{precision}: {p50[precision] / p50[best]:.2f} x the latency of {best} on {name}")
    timing = timings[f"{name} {best}"]
    latency = {"target": name, "batch": measure.batch, "threads": measure.threads, **timing.record()}
    for other in ("teacher", "parent"):
        if other in timings:
            latency[f"ratio_to_{other}"] = timing.p50_ms / timings[other].p50_ms
    return best, latency


def _candidate(parent: Artifact, precision: str, name: str, work: Path, threads: int) -> Session:
    graph = work / f"{precision}.onnx"
    _choose(parent, precision, name, graph, [], measured=True)
    return opened(graph, name, threads=threads)


def _choose(parent: Artifact, wanted: str | None, name: str, graph: Path, notes: list[str], *, measured: bool) -> str:
    """Write the graph to build from and return the candidate's name; ``notes`` gets what a reader must know of the choice.

    On a target that was measured, the fastest candidate that was kept; elsewhere the first of the recipe's precision.
    """
    candidates = {row["precision"]: row for row in parent.meta.get("candidates", [])}
    if name == "onnxruntime-cpu":
        chosen = wanted or parent.meta.get("precision", "fp32")
        if wanted is not None:
            notes.append(f"{chosen} as the recipe asks, not by measurement")
    else:
        chosen = wanted or "fp16"
        if not measured:
            notes.append(f"{chosen} by the recipe, not measured: this machine cannot run the target")
    chosen = _of_precision(chosen, candidates, name)
    if chosen in candidates and not candidates[chosen]["kept"]:
        notes.append(f"{chosen} is outside the accuracy budget: {candidates[chosen]['why']}")
    source = parent.file(f"{chosen}.onnx") if chosen in candidates else None
    if chosen == "int8" and source is None:
        raise MmedgeError(
            f"export to {name} asks for int8, which the quantize stage did not make",
            where=f"export.targets.{name}.precision",
            todo="add int8 to quantize.candidates",
        )
    if precision_of(chosen) == "int8" and name in tensorrt.PACKAGES:
        assert source is not None
        count = precisions.to_symmetric(source, graph)
        notes.append(f"{count} activations rewritten from uint8 to symmetric int8, as {name} takes them")
    elif source is not None:
        shutil.copyfile(source, graph)
    elif chosen == "fp16":
        precisions.to_fp16(_reference(parent), graph)
    else:
        shutil.copyfile(_reference(parent), graph)
    return chosen


def _of_precision(wanted: str, candidates: dict[str, dict[str, Any]], name: str) -> str:
    """The candidate to take where a recipe names its precision: the first that is kept, else the one that loses least."""
    if wanted in candidates and candidates[wanted]["kept"]:
        return wanted
    # TensorRT computes in float where weights alone are INT8: nobody asks for that with ``int8``.
    rows = [
        row
        for row in candidates.values()
        if precision_of(row["precision"]) == wanted
        and not (name in tensorrt.PACKAGES and row["precision"] == "int8-weights")
    ]
    kept = [row for row in rows if row["kept"]]
    best = kept[:1] or sorted(rows, key=lambda row: -row["quality_validation"])[:1]
    return str(best[0]["precision"]) if best else wanted


def _build(
    folder: Path, contract: Contract, config: TargetOptions, context: Context, name: str, chosen: str
) -> dict[str, Any] | None:
    """Build the target's engine beside its graph; returns what the bundle remembers of it. None: it runs the graph."""
    if name == "openvino-cpu":
        built = openvino_cpu.build(folder / GRAPH, folder / "engine.xml") | {
            "file": "engine.xml",
            "files": ["engine.xml", "engine.bin"],
        }
    elif name in tensorrt.PACKAGES:
        options = tensorrt.Options(
            batch=(1, config.best_batch, config.max_batch),
            workspace_mb=config.workspace_mb,
            level=config.level,
            # Beside the runs, where it outlives this one.
            timing_cache=context.work.parent / f"{name}.timing-cache",
            version_compatible=config.version_compatible,
            hardware_compatible=config.hardware_compatible,
        )
        built = tensorrt.build(
            folder / GRAPH,
            folder / ENGINE,
            target=name,
            shapes=tensorrt.input_shapes(contract),
            options=options,
            least=tensorrt.least_shapes(contract),
        ) | {"file": ENGINE, "files": [ENGINE]}
        tensorrt.check_precision(built, chosen, name)
        if chosen == "int8":
            _check_int8_layers(folder / GRAPH, built["int8_layers"], name)
    else:
        return None
    return built | {
        "precision": chosen,
        "graph_sha256": sha256_of(folder / GRAPH),
        "preprocessing_sha256": preprocessing_sha256(contract),
    }


def _check_int8_layers(graph: Path, built: list[str], name: str) -> None:
    """Raise MismatchError where the network that was built has a layer in float that the graph has in INT8."""
    import onnx

    asked = {layer.name: layer.label for layer in qdq.layers(onnx.load(graph)) if layer.kind in qdq.WEIGHTED}
    missing = [label for node, label in asked.items() if node not in built]
    if missing:
        raise MismatchError(
            f"{len(missing)} of {len(asked)} layers that the graph has in INT8 are float in the {name} network: {', '.join(missing[:8])}",
            where=str(graph),
            todo=f"declare them: quantize.ignore: [{', '.join(missing[:8])}]",
        )


def _reference(parent: Artifact) -> Path:
    """The parent's FP32 graph: what every other precision is held against."""
    fp32 = parent.file("fp32.onnx")
    return fp32 if fp32.is_file() else parent.file(GRAPH)


def verify(
    reference: Path, graph: Path, contract: Contract, samples: Samples, chosen: str, engine: Session | None = None
) -> list[Agreement]:
    """Compare two graphs over every sample and subset; raises MismatchError beyond the precision's tolerance.

    ``engine``: what was built of ``graph``, compared instead of it. INT8 kernels are compared without ONNX Runtime's
    fusions, which saturate on CPUs without VNNI; accuracy is judged with them, elsewhere.
    """
    relative, least = TOLERANCES[chosen]
    expect = onnxruntime_cpu.session(reference)
    run = engine or onnxruntime_cpu.session(graph, optimize=chosen != "int8")
    names = tuple(contract.modalities)
    agreements: list[Agreement] = []
    for subset in subsets(names):
        present = _present(samples, names, subset)
        expected = predict_graph(expect, contract, samples, present)
        actual = predict_graph(run, contract, samples, present)
        agreement = compare("+".join(subset), expected, actual)
        # Written so that NaN fails.
        if not (agreement.max_abs <= relative * max(1.0, float(np.abs(expected).max())) and agreement.top1 >= least):
            worst = int(np.nan_to_num(np.abs(expected - actual), nan=np.inf).max(axis=1).argmax())
            raise MismatchError(
                f"the {chosen} graph differs from its parent with {agreement.subset}: by {agreement.max_abs:.3g} at most, same class for {agreement.top1:.1%}"
                + _first_node(reference, graph, samples, present, worst, relative),
                where=str(graph),
                todo=f"tolerated are {relative:g} of the largest output and {least:.1%}; choose another precision",
            )
        agreements.append(agreement)
    check_trimmed(run, contract, samples, relative, graph)
    return agreements


def _present(samples: Samples, names: tuple[str, ...], subset: tuple[str, ...]) -> np.ndarray:
    """bool [n, M]: ``subset`` of what each sample has; a sample that has nothing of it keeps what it has."""
    having = samples.present & np.array([name in subset for name in names])
    present: np.ndarray = np.where(having.any(axis=1, keepdims=True), having, samples.present)
    return present


def _first_node(reference: Path, graph: Path, samples: Samples, present: np.ndarray, row: int, tolerance: float) -> str:
    """Where the graph parts from its reference on the sample that differs most."""
    inputs = {name: np.array(x[row : row + 1]) for name, x in samples.inputs.items()} | {
        "present": present[row : row + 1]
    }
    found = first_difference(reference, graph, inputs, tolerance=tolerance)
    return f"; {found}" if found else "; node by node the graphs agree: the engine that was built of it does not"


def _per_subset(
    folder: Path, contract: Contract, context: Context, name: str, test: Samples, chosen: str, notes: list[str]
) -> dict[str, dict[str, Any]]:
    """Cut, verify and time an engine for every proper subset; kept are those that are faster than the whole graph."""
    names, measure = tuple(contract.modalities), context.recipe.measure
    (folder / "subsets").mkdir()
    files = {}
    for subset in subsets(names)[:-1]:
        key = "+".join(subset)
        files[key] = f"subsets/{key}.onnx"
        cut.subset_graph(folder / GRAPH, contract, subset, folder / files[key])
        # What an absent modality holds does not matter, nor whether a present one was: both graphs get the same.
        having = np.tile([name in subset for name in names], (len(test), 1))
        runs = [onnxruntime_cpu.session(folder / file, optimize=chosen != "int8") for file in (GRAPH, files[key])]
        whole = predict_graph(runs[0], contract, test, having)
        alone = predict_graph(_taking(runs[1]), contract, test, having)
        _agree(f"the engine for {key} alone", whole, alone, chosen, folder / files[key])
    sessions = {
        key: opened(folder / file, name, threads=measure.threads) for key, file in {"all": GRAPH, **files}.items()
    }
    timings = time_sessions(sessions, one_sample(test, measure.batch), measure, context.progress)
    kept = {}
    for key, file in files.items():
        ratio = timings[key].p50_ms / timings["all"].p50_ms
        if ratio < 1 - _NOISE:
            kept[key] = {"file": file, "p50_ms": timings[key].p50_ms, "ratio_to_all": ratio}
            notes.append(f"engine for {key} alone: {ratio:.2f} x the time of the whole")
        else:
            notes.append(f"no engine for {key} alone: it would take {ratio:.2f} x the time of the whole")
            (folder / file).unlink()
    return kept


def _taking(session: Session) -> Any:
    """A session that is given more inputs than it takes."""
    return lambda inputs: session.run({name: inputs[name] for name in session.inputs})


def _split(folder: Path, contract: Contract, name: str, test: Samples, chosen: str) -> dict[str, Any]:
    """Encoders and fusion head apart, verified together against the whole graph."""
    names = tuple(contract.modalities)
    embeddings = cut.split_graph(folder / GRAPH, contract, folder / "split")
    sessions = {
        part: onnxruntime_cpu.session(folder / "split" / f"{part}.onnx", optimize=chosen != "int8")
        for part in (*names, "fusion")
    }

    def together(inputs: Any) -> dict[str, np.ndarray]:
        given: dict[str, np.ndarray] = {"present": inputs["present"]}
        for modality in names:
            given |= sessions[modality]({modality: inputs[modality]})
        return sessions["fusion"](given)

    run = onnxruntime_cpu.session(folder / GRAPH, optimize=chosen != "int8")
    for subset in subsets(names):
        present = _present(test, names, subset)
        whole, apart = (predict_graph(one, contract, test, present) for one in (run, together))
        _agree(f"the split engine with {'+'.join(subset)}", whole, apart, chosen, folder / GRAPH)
    return {"files": {part: f"split/{part}.onnx" for part in sessions}, "embeddings": embeddings}


def _agree(what: str, whole: np.ndarray, part: np.ndarray, chosen: str, where: Path) -> None:
    """Raise MismatchError where a cut graph does not answer as the whole one does, which it was cut from."""
    relative = 1e-4 if chosen != "fp16" else TOLERANCES["fp16"][0]
    difference = float(np.abs(whole - part).max(initial=0))
    if not difference <= relative * max(1.0, float(np.abs(whole).max(initial=0))):
        raise MismatchError(
            f"{what} differs from the whole graph by {difference:.3g}",
            where=str(where),
            todo="turn off export.per_subset and export.split for this model, and report its graph",
        )


def record(artifact: Artifact) -> dict[str, Any]:
    """What the bundle says of this engine; files of subsets and parts are relative to ``base`` in the bundle."""
    name = artifact.meta["target"]
    base = "" if name == "onnxruntime-cpu" else f"{name}/"
    out: dict[str, Any] = {"precision": artifact.meta["precision"], "file": f"{base}{GRAPH}"}
    if "engine" in artifact.meta:
        out["engine"] = artifact.meta["engine"]
    if artifact.meta.get("subsets"):
        out["subsets"] = {key: f"{base}{entry['file']}" for key, entry in artifact.meta["subsets"].items()}
        out["subset_latency"] = {
            key: {"p50_ms": entry["p50_ms"], "ratio_to_all": entry["ratio_to_all"]}
            for key, entry in artifact.meta["subsets"].items()
        }
    if "split" in artifact.meta:
        files = {part: f"{base}{file}" for part, file in artifact.meta["split"]["files"].items()}
        out["split"] = {"files": files, "embeddings": artifact.meta["split"]["embeddings"]}
    return out


def files(artifact: Artifact) -> list[tuple[str, str]]:
    """(file in the artifact, file in the bundle) of all that the bundle takes of this engine."""
    entry, name = record(artifact), artifact.meta["target"]
    base = "" if name == "onnxruntime-cpu" else f"{name}/"
    taken = [entry["file"], *(f"{base}{file}" for file in entry.get("engine", {}).get("files", []))]
    taken += [*entry.get("subsets", {}).values(), *entry.get("split", {}).get("files", {}).values()]
    return [(file.removeprefix(base), file) for file in taken]


def measured_file(artifact: Artifact) -> tuple[Path, str]:
    """(file, target) that an artifact's quality is judged on: its own engine where it runs here, else its graph."""
    if artifact.meta.get("target") == "openvino-cpu":
        return artifact.file(artifact.meta["engine"]["file"]), "openvino-cpu"
    return artifact.file(GRAPH), "onnxruntime-cpu"
