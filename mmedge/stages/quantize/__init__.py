"""Quantization: candidate precisions of one graph, judged on validation and timed in turn; the best are kept.

``candidates.py`` makes and judges them from a graph, calibration inputs and two functions; ``calibration.py`` chooses
what they are calibrated on; ``ptq.py`` is NNCF. This file ties them to a run's artifacts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mmedge.artifact import Artifact, creating, read
from mmedge.models.load import contract_of
from mmedge.recipe import Quantize
from mmedge.stages.quantize.calibration import calibration_inputs, calibration_rows
from mmedge.stages.quantize.candidates import Task, evaluator, fastest_kept, make_and_judge, timer
from mmedge.training.context import Context

GRAPH = "model.onnx"


def quantize(parent: Artifact, config: Quantize, context: Context, target: Path, key: str) -> Artifact:
    """Make every candidate, judge it on the validation split, and make the fastest one that is kept ``model.onnx``."""
    contract = contract_of(parent)
    train, validation = (
        split.only(tuple(contract.modalities)) for split in (context.dataset.train, context.dataset.validation)
    )
    with creating(target, stage="quantize", key=key, parent=parent.sha256) as (folder, meta):
        notes: list[str] = []
        inputs: list[dict[str, Any]] = []
        if "int8" in config.candidates:
            chosen = calibration_rows(train, config.calibration, context.recipe.seed)
            if len(chosen) < config.calibration:
                notes.append(f"calibrated on {len(chosen)} samples, all there are; {config.calibration} were asked for")
            inputs = calibration_inputs(train, chosen, context.recipe.seed)
        task = Task(
            graph=parent.file(GRAPH),
            calibration=inputs,
            evaluate=evaluator(contract, validation),
            time=timer(validation, context.recipe.measure, context.progress),
            progress=context.progress,
        )
        table = make_and_judge(task, config, folder)
        fastest = fastest_kept(table)
        shutil.copyfile(folder / f"{fastest['precision']}.onnx", folder / GRAPH)
        notes += [f"{row['precision']}: {row['why']}" for row in table]
        meta |= {
            **{name: parent.meta[name] for name in ("contract", "params", "macs", "recipe", "code")},
            "candidates": table,
            "precision": fastest["precision"],
            "notes": notes,
        }
    return read(target)
