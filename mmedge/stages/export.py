"""Export: the engine of one target, built from the best graph for it and held against its parent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.artifact import Artifact, creating, read
from mmedge.data.samples import Samples
from mmedge.errors import MismatchError, MmedgeError
from mmedge.graph import precision as precisions
from mmedge.graph.export import Agreement, compare
from mmedge.measure.quality import predict_graph
from mmedge.models.load import contract_of
from mmedge.recipe import TargetOptions
from mmedge.runtime.targets import onnxruntime_cpu, tensorrt
from mmedge.spec import Contract, subsets
from mmedge.training.context import Context

GRAPH, ENGINE = "model.onnx", "engine.plan"
# Stated tolerances against the FP32 parent: (largest difference relative to the largest output, least top-1 agreement).
TOLERANCES: dict[str, tuple[float, float]] = {"fp32": (1e-4, 0.999), "fp16": (2e-2, 0.98), "int8": (0.5, 0.90)}


def export(parent: Artifact, config: TargetOptions, context: Context, target: Path, key: str, *, name: str) -> Artifact:
    """Build the engine of the target ``name`` and compare its graph with the parent over every test sample and subset."""
    contract = contract_of(parent)
    with creating(target, stage=f"export-{name}", key=key, parent=parent.sha256) as (folder, meta):
        context.progress.say(f"export: building for {name}")
        chosen, notes = _choose(parent, config, name, folder / GRAPH)
        agreements = verify(
            _reference(parent), folder / GRAPH, contract, context.dataset.test.only(tuple(contract.modalities)), chosen
        )
        meta |= {
            **{field: parent.meta[field] for field in ("contract", "params", "macs", "recipe", "code")},
            "target": name,
            "precision": chosen,
            "notes": notes,
            "verification": [agreement.record() for agreement in agreements],
        }
        if name in tensorrt.PACKAGES:
            shapes = {modality: spec.shape for modality, spec in contract.modalities.items()} | {
                "present": (len(contract.modalities),)
            }
            built = tensorrt.build(
                folder / GRAPH,
                folder / ENGINE,
                target=name,
                shapes=shapes,
                options=tensorrt.Options(batch=(1, 1, config.max_batch)),
            )
            tensorrt.check_precision(built, chosen, name)
            meta["engine"] = {"file": ENGINE, **built}
    return read(target)


def _choose(parent: Artifact, config: TargetOptions, name: str, graph: Path) -> tuple[str, list[str]]:
    """Write the graph to build from; returns its precision and what a reader must know of the choice.

    On the CPU, which was measured, the fastest candidate that was kept; elsewhere the recipe's precision.
    """
    candidates = {row["precision"]: row for row in parent.meta.get("candidates", [])}
    if name == "onnxruntime-cpu":
        chosen = config.precision or parent.meta.get("precision", "fp32")
        notes = [] if config.precision is None else [f"{chosen} as the recipe asks, not by measurement"]
    else:
        chosen = config.precision or "fp16"
        notes = [f"{chosen} by the recipe, not measured: this machine cannot run the target"]
    if chosen in candidates and not candidates[chosen]["kept"]:
        notes.append(f"{chosen} is outside the accuracy budget: {candidates[chosen]['why']}")
    source = parent.file(f"{chosen}.onnx") if chosen in candidates else None
    if chosen == "int8" and source is None:
        raise MmedgeError(
            f"export to {name} asks for int8, which the quantize stage did not make",
            where=f"export.targets.{name}.precision",
            todo="add int8 to quantize.candidates",
        )
    if chosen == "int8" and name in tensorrt.PACKAGES:
        assert source is not None
        count = precisions.to_symmetric(source, graph)
        notes.append(f"{count} activations rewritten from uint8 to symmetric int8, as {name} takes them")
    elif source is not None:
        shutil.copyfile(source, graph)
    elif chosen == "fp16":
        precisions.to_fp16(_reference(parent), graph)
    else:
        shutil.copyfile(_reference(parent), graph)
    return chosen, notes


def _reference(parent: Artifact) -> Path:
    """The parent's FP32 graph: what every other precision is held against."""
    fp32 = parent.file("fp32.onnx")
    return fp32 if fp32.is_file() else parent.file(GRAPH)


def verify(reference: Path, graph: Path, contract: Contract, samples: Samples, chosen: str) -> list[Agreement]:
    """Compare two graphs over every sample and subset; raises MismatchError beyond the precision's tolerance.

    INT8 kernels are compared without ONNX Runtime's fusions, which saturate on CPUs without VNNI; accuracy is judged
    with them, elsewhere.
    """
    relative, least = TOLERANCES[chosen]
    expect, run = onnxruntime_cpu.session(reference), onnxruntime_cpu.session(graph, optimize=chosen != "int8")
    names = tuple(contract.modalities)
    agreements: list[Agreement] = []
    for subset in subsets(names):
        having = samples.present & np.array([name in subset for name in names])
        present = np.where(having.any(axis=1, keepdims=True), having, samples.present)
        expected = predict_graph(expect, contract, samples, present)
        agreement = compare("+".join(subset), expected, predict_graph(run, contract, samples, present))
        # Written so that NaN fails.
        if not (agreement.max_abs <= relative * max(1.0, float(np.abs(expected).max())) and agreement.top1 >= least):
            raise MismatchError(
                f"the {chosen} graph differs from its parent with {agreement.subset}: by {agreement.max_abs:.3g} at most, same class for {agreement.top1:.1%}",
                where=str(graph),
                todo=f"tolerated are {relative:g} of the largest output and {least:.1%}; choose another precision",
            )
        agreements.append(agreement)
    return agreements


def record(artifact: Artifact) -> dict[str, Any]:
    """What the bundle says of this engine."""
    return {
        "precision": artifact.meta["precision"],
        **({"engine": artifact.meta["engine"]} if "engine" in artifact.meta else {}),
    }
