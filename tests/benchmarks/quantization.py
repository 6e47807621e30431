"""Quantization: ours against plain ``nncf.quantize`` at the same accuracy budget.

`python -m tests.benchmarks.quantization RUN [STAGE ...]` takes a finished run's folder (its recipe and data) and the stages
whose graphs are quantized (teacher, distill, prune). Each way chooses on validation: ours what the stage takes, plain NNCF
its one INT8 graph where that is inside the budget, else FP32. All graphs are then timed in one interleaved run and read on
the test split, once. It prints one JSON document; nothing is asserted about time, since machines differ.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["NNCF_CI"] = "1"

from mmedge import artifact, recipe
from mmedge.artifact import Artifact
from mmedge.data import samples
from mmedge.measure.latency import one_sample, time_graphs
from mmedge.models.load import contract_of
from mmedge.progress import Silent
from mmedge.recipe import Quantize
from mmedge.stages.quantize import quantize
from mmedge.stages.quantize.calibration import calibration_inputs, calibration_rows
from mmedge.stages.quantize.candidates import evaluator, over
from mmedge.training.context import Context


def plain_nncf(parent: Artifact, context: Context, target: Path) -> None:
    """What NNCF's documentation shows: its defaults, 300 samples as they come, everything that it can quantize."""
    import nncf
    import onnx

    train = context.dataset.train.only(tuple(contract_of(parent).modalities))
    inputs = calibration_inputs(train, calibration_rows(train, 300, 0), 0)
    onnx.save(nncf.quantize(onnx.load(parent.file("model.onnx")), nncf.Dataset(inputs)), target)


def compared(parent: Artifact, context: Context, config: Quantize, folder: Path) -> dict[str, Any]:
    """Figures of FP32, plain NNCF and ours, for one artifact."""
    contract = contract_of(parent)
    splits = {
        name: evaluator(contract, getattr(context.dataset, name).only(tuple(contract.modalities)))
        for name in ("validation", "test")
    }
    began = time.monotonic()
    made = quantize(parent, config, context, folder / "ours", "benchmark")
    seconds = time.monotonic() - began
    began = time.monotonic()
    plain_nncf(parent, context, folder / "nncf.onnx")
    plain_seconds = time.monotonic() - began
    graphs = {
        "fp32": parent.file("model.onnx"),
        "nncf": folder / "nncf.onnx",
        "ours": made.file("model.onnx"),
        "ours, int8": made.file("int8.onnx"),
    }
    if made.file("int8-mixed.onnx").is_file():
        graphs["ours, int8-mixed"] = made.file("int8-mixed.onnx")
    timings = time_graphs(
        graphs, one_sample(context.dataset.test, context.recipe.measure.batch), context.recipe.measure, Silent()
    )
    out: dict[str, Any] = {}
    reference = splits["validation"](graphs["fp32"])
    for name, graph in graphs.items():
        chosen, test = splits["validation"](graph), splits["test"](graph)
        out[name] = {
            "validation": round(chosen.quality, 4),
            "inside_budget": over(chosen, reference, config) <= 0,
            "test": round(test.quality, 4),
            "test_subsets": {subset: round(value, 4) for subset, value in test.subsets.items()},
            "p50_ms": round(timings[name].p50_ms, 4),
            "ratio_to_fp32": round(timings[name].p50_ms / timings["fp32"].p50_ms, 3),
            "size_kb": graph.stat().st_size // 1000,
        }
    return {
        "params": parent.meta["params"],
        "taken": made.meta["precision"],
        "seconds": {"ours": round(seconds, 1), "nncf": round(plain_seconds, 1)},
        "search_seconds": made.meta.get("sensitivity", {}).get("seconds"),
        "graphs": out,
    }


def main() -> None:
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        print("skipped: it needs the folder of a finished run: python -m tests.benchmarks.quantization runs/demo")
        return
    run, stages = Path(sys.argv[1]), sys.argv[2:] or ["teacher", "prune"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = artifact.read(run / stages[0])
        values, code = recipe.recall(first.meta["recipe"], run / ".work")
        resolved = recipe.parse(values, where=run / "report.json")
        if (run / "data").is_dir():
            shutil.copytree(run / "data", folder / "data")
        dataset = samples.prepare(resolved, folder, code=code, progress=Silent())
        out = {}
        for stage in stages:
            context = Context(resolved, dataset, folder / ".work" / stage, code, Silent())
            out[stage] = compared(artifact.read(run / stage), context, Quantize(), folder / stage)
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
