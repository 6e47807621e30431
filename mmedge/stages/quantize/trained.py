"""``int8-qat``: training where calibration alone misses the accuracy budget, and where it can pay."""

from __future__ import annotations

from pathlib import Path

from mmedge.artifact import Artifact
from mmedge.errors import PeerEnded, UsageError
from mmedge.recipe import Quantize, computes_int8
from mmedge.stages.quantize.candidates import NOISE, Table, add_candidate, is_static, reason
from mmedge.stages.quantize.evaluation import Trial
from mmedge.training.context import Context
from mmedge.training.qat import train_quantized

NAME = "int8-qat"


def add_trained(
    table: Table, trial: Trial, config: Quantize, parent: Artifact, context: Context, folder: Path, notes: list[str]
) -> None:
    """Give the table ``int8-qat``, trained from the INT8 candidate that loses least, where ``config.qat`` asks for it.

    ``auto`` trains only where every INT8 candidate missed the budget, and INT8 was measured faster than FP32 or is
    required: training changes no latency.
    """
    base = table.best_static(config)
    if config.qat == "never" or base is None or config.on_miss != "try-next":
        return
    if config.qat == "auto":
        if any(row.kept for row in table.rows if computes_int8(row.precision)):
            return
        ratio = min(row.ratio_to_fp32 for row in table.rows if is_static(row.precision))
        wanted = config.require == "int8" or context.recipe.export.asks_int8
        if ratio > 1 - NOISE and not wanted:
            notes.append(f"{NAME} was not trained: INT8 takes {ratio:.2f} x the time of fp32 here, trained or not")
            return
    context.progress.say(f"quantize: training {NAME}, from {base}")
    graph = folder / f"{NAME}.onnx"
    try:
        fitted = train_quantized(folder / f"{base}.onnx", graph, parent, config.train, context)
    except (PeerEnded, UsageError):
        raise
    except Exception as error:  # what torch raises in a graph that trains is why this candidate lost
        table.absent[NAME] = reason(error)
        return
    notes.append(
        f"{NAME}: trained from {base}, epoch {fitted.best_epoch} of {config.train.epochs} is kept by validation"
    )
    notes += [f"{NAME}: {note}" for note in fitted.notes]
    add_candidate(NAME, graph, table, trial, config)
