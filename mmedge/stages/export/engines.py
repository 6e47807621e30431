"""The engines of a target, built from verified graphs: of the whole graph, of subsets and of parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmedge.artifact import sha256_of
from mmedge.backends import openvino_cpu, tensorrt
from mmedge.bundle import preprocessing_sha256
from mmedge.errors import MismatchError
from mmedge.graph import qdq
from mmedge.recipe import TargetOptions
from mmedge.spec import Contract
from mmedge.training.context import Context

ENGINE = "engine.plan"


def build(
    graph: Path, contract: Contract, config: TargetOptions, context: Context, name: str, chosen: str, notes: list[str]
) -> dict[str, Any] | None:
    """Build the target's engine beside its graph; returns what the bundle remembers of it. None: it runs the graph.

    ``notes`` gets what this version of the builder does not offer.
    """
    folder = graph.parent
    if name == "openvino-cpu":
        built = openvino_cpu.build(graph, folder / "engine.xml") | {
            "file": "engine.xml",
            "files": ["engine.xml", "engine.bin"],
        }
    elif name in tensorrt.PACKAGES:
        built = tensorrt.build(
            graph,
            folder / ENGINE,
            target=name,
            profiles=tensorrt.profiles_of(contract, batches(config)),
            options=tensorrt_options(config, context, name),
        ) | {"file": ENGINE, "files": [ENGINE]}
        notes += built.pop("notes", [])
        tensorrt.check_precision(built, chosen, name)
        if chosen == "int8":
            check_int8_layers(graph, built["int8_layers"], name)
    else:
        return None
    return built | {
        "precision": chosen,
        "graph_sha256": sha256_of(graph),
        "preprocessing_sha256": preprocessing_sha256(contract),
    }


def batches(config: TargetOptions) -> tuple[int, int, int]:
    """(least, optimised for, largest) of an engine's profile."""
    return (1, config.best_batch, config.max_batch)


def tensorrt_options(config: TargetOptions, context: Context, name: str) -> tensorrt.Options:
    """The recipe's options of TensorRT's builder; timings are kept beside the runs, where they outlive this one."""
    return tensorrt.Options(
        workspace_mb=config.workspace_mb,
        level=config.level,
        timing_cache=context.work.parent / f"{name}.timing-cache",
        version_compatible=config.version_compatible,
        hardware_compatible=config.hardware_compatible,
    )


def check_int8_layers(graph: Path, built: list[str], name: str) -> None:
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
