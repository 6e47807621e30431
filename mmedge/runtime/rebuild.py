"""Building a bundle's engines again, on the device that runs them, from the ONNX graphs in the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmedge import artifact
from mmedge.errors import UsageError
from mmedge.progress import Progress, Silent
from mmedge.runtime import bundle as bundles
from mmedge.runtime.targets import openvino_cpu, tensorrt


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
            file = folder / name / old["file"]
            if name in tensorrt.PACKAGES:
                least, most = old.get("batch") or tensorrt.Options().batch[::2]
                options = tensorrt.Options(
                    batch=(least, old.get("best_batch", least), most),
                    version_compatible=old.get("version_compatible", False),
                    hardware_compatible=old.get("hardware_compatible", False) and name != "tensorrt-rtx",
                )
                built = tensorrt.build(
                    graph,
                    file,
                    target=name,
                    shapes=tensorrt.input_shapes(contract),
                    options=options,
                    least=tensorrt.least_shapes(contract),
                )
                tensorrt.check_precision(built, found.meta["targets"][name]["precision"], name)
            else:
                built = openvino_cpu.build(graph, file)
            entry = {key: old[key] for key in ("file", "files", "precision") if key in old} | built
            entry |= {
                "graph_sha256": artifact.sha256_of(graph),
                "preprocessing_sha256": bundles.preprocessing_sha256(contract),
            }
            meta["targets"] = meta["targets"] | {name: meta["targets"][name] | {"engine": entry}}
    return {name: artifact.read(path).meta["targets"][name]["engine"] for name in wanted}
