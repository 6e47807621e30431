"""Quantization: candidate precisions of one graph, judged on validation and timed in turn; the best are kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.artifact import Artifact, creating, read
from mmedge.data.samples import Samples
from mmedge.errors import MismatchError
from mmedge.graph import precision
from mmedge.measure.latency import one_sample, time_graphs
from mmedge.measure.quality import graph_predictor, score, subset_scores
from mmedge.models.load import contract_of
from mmedge.recipe import Quantize
from mmedge.runtime.targets import onnxruntime_cpu
from mmedge.spec import Contract, subsets
from mmedge.training.context import Context

GRAPH = "model.onnx"
# A candidate must beat FP32's median latency by this share to take its place.
_NOISE = 0.03


def quantize(parent: Artifact, config: Quantize, context: Context, target: Path, key: str) -> Artifact:
    """Make every candidate, judge it on the validation split, and make the fastest one that is kept ``model.onnx``."""
    contract = contract_of(parent)
    train, validation = (
        split.only(tuple(contract.modalities)) for split in (context.dataset.train, context.dataset.validation)
    )
    with creating(target, stage="quantize", key=key, parent=parent.sha256) as (folder, meta):
        notes: list[str] = []
        for name in config.candidates:
            context.progress.say(f"quantize: making the {name} candidate")
            match name:
                case "fp32":
                    shutil.copyfile(parent.file(GRAPH), folder / "fp32.onnx")
                case "fp16":
                    precision.to_fp16(parent.file(GRAPH), folder / "fp16.onnx")
                case "int8":
                    chosen = calibration_rows(train, config.calibration, context.recipe.seed)
                    if len(chosen) < config.calibration:
                        notes.append(
                            f"calibrated on {len(chosen)} samples, all there are; {config.calibration} were asked for"
                        )
                    _int8(
                        parent.file(GRAPH), folder / "int8.onnx", calibration_inputs(train, chosen, context.recipe.seed)
                    )
        table = _judged(folder, contract, validation, config, context)
        fastest = fastest_kept(table)
        shutil.copyfile(folder / f"{fastest['precision']}.onnx", folder / GRAPH)
        notes += [f"{row['precision']}: {row['why']}" for row in table]
        meta |= {
            **{name: parent.meta[name] for name in ("contract", "params", "macs", "recipe")},
            "candidates": table,
            "precision": fastest["precision"],
            "notes": notes,
        }
    return read(target)


def fastest_kept(table: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest candidate inside the budget; FP32 stays unless another is faster by more than timing noise."""
    best = min((row for row in table if row["kept"]), key=lambda row: row["p50_ms"])
    return best if best["ratio_to_fp32"] < 1 - _NOISE else next(row for row in table if row["precision"] == "fp32")


def calibration_rows(train: Samples, count: int, seed: int) -> np.ndarray:
    """int64 rows of the training split, spread evenly over the classes."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train))
    if train.targets.dtype.kind == "i":
        targets = train.targets[order]
        rank = np.zeros(len(order), np.int64)
        for label in np.unique(targets):
            rank[targets == label] = np.arange((targets == label).sum())
        order = order[np.argsort(rank, kind="stable")]
    return order[:count]


def calibration_inputs(train: Samples, rows: np.ndarray, seed: int) -> list[dict[str, np.ndarray]]:
    """Paired calibration: each sample with all its modalities at once, a quarter of them as a random subset."""
    names = tuple(train.inputs)
    rng = np.random.default_rng(seed)
    proper = subsets(names)[:-1]
    inputs = []
    for number, row in enumerate(rows):
        present = train.present[row]
        if number % 4 == 3 and proper:
            kept = present & np.array([name in proper[rng.integers(len(proper))] for name in names])
            present = kept if kept.any() else present
        inputs.append(
            {**{name: np.array(x[row : row + 1]) for name, x in train.inputs.items()}, "present": present[None]}
        )
    return inputs


def _int8(graph: Path, target: Path, inputs: list[dict[str, np.ndarray]]) -> None:
    os.environ["NNCF_CI"] = "1"  # no telemetry; it is read at import
    import contextlib
    import io
    import logging

    import nncf
    import onnx

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # nncf draws its own bars on stdout, which belongs to --json
        quantized = nncf.quantize(
            onnx.load(graph), nncf.Dataset(inputs), subset_size=len(inputs), preset=nncf.QuantizationPreset.PERFORMANCE
        )
    onnx.save(quantized, target)


def _judged(
    folder: Path, contract: Contract, validation: Samples, config: Quantize, context: Context
) -> list[dict[str, Any]]:
    """One row a candidate: its quality on validation, its latency in one interleaved run, whether it is kept and why."""
    graphs: dict[str, Path] = {name: folder / f"{name}.onnx" for name in config.candidates}
    timings = time_graphs(
        graphs, one_sample(validation, context.recipe.measure.batch), context.recipe.measure, context.progress
    )
    table: list[dict[str, Any]] = []
    for name, graph in graphs.items():
        predict = graph_predictor(onnxruntime_cpu.session(graph), contract, validation)
        row: dict[str, Any] = {
            "precision": name,
            "quality_validation": score(contract, predict(validation.present), validation.targets),
            "subsets_validation": subset_scores(contract, validation, predict),
            "n": int(validation.labelled.sum()),
            "p50_ms": timings[name].p50_ms,
            "size_bytes": graph.stat().st_size,
        }
        if name == "int8":
            row["int8_kernels"] = precision.int8_kernels(graph, folder)
            if not row["int8_kernels"]:
                raise MismatchError(
                    "INT8 was asked for and ONNX Runtime runs no 8-bit kernel",
                    where="quantize.candidates",
                    todo="leave int8 out of quantize.candidates for this model",
                )
        table.append(row)
    reference = next(row for row in table if row["precision"] == "fp32")
    for row in table:
        row["ratio_to_fp32"] = row["p50_ms"] / reference["p50_ms"]
        drop = reference["quality_validation"] - row["quality_validation"]
        drops = {
            name: reference["subsets_validation"][name] - value for name, value in row["subsets_validation"].items()
        }
        worst = max(drops, key=lambda name: drops[name], default="")
        row["kept"] = drop <= config.max_drop and (not drops or drops[worst] <= config.max_subset_drop)
        speed = f"{row['ratio_to_fp32']:.2f} x the latency of fp32"
        if not row["kept"]:
            row["why"] = (
                f"dropped: loses {drop:.3f} on validation (worst subset {worst}: {drops.get(worst, 0):.3f}), {speed}"
            )
        else:
            row["why"] = f"kept: loses {max(drop, 0):.3f} on validation, {speed}"
    return table
