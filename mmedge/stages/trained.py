"""What every stage that ends in a torch model writes: weights, history, and the verified graph that is measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue
from torch import nn

from mmedge.artifact import GRAPH, Artifact
from mmedge.backends import onnxruntime_cpu, writing
from mmedge.contract import Contract, subsets
from mmedge.data.store.samples import Samples
from mmedge.errors import MismatchError, MmedgeError
from mmedge.graph.export import export, first_layer_that_differs
from mmedge.graph.trace import outputs_of
from mmedge.measure.agreement import SAME, Agreement, agreements
from mmedge.measure.cost import macs, params
from mmedge.measure.lengths import check_alone, check_trimmed
from mmedge.measure.quality import module_run
from mmedge.models import load
from mmedge.models.pretrained import described
from mmedge.recipe import Model, portable
from mmedge.stages.results import TORCH, StageResult
from mmedge.training.context import Context
from mmedge.training.loop import processes
from mmedge.training.loop.fit import Fitted
from mmedge.training.loop.log import CSV, csv_of

_IN_TORCH = (
    "not exported, as the recipe says: quality and latency are PyTorch's, so that ratios to it are of two runtimes"
)
# Largest difference from torch that an FP32 graph may have, relative to the largest output.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Trained:
    """A network that is to be written: how it was trained, the section that builds it again, what was cut out of it.

    ``others``: further networks, each for a folder of its own. ``exported``: whether it gets a graph.
    """

    module: nn.Module
    contract: Contract
    fitted: Fitted
    model: Model
    history: Sequence[Any] = ()
    others: Mapping[str, nn.Module] = field(default_factory=dict)
    exported: bool = True


def write_trained(trained: Trained, context: Context) -> StageResult:
    """Write a network; its ``model.onnx`` is proved equal to the module on validation samples.

    Of several processes the main one does it.
    """
    module, contract, folder = trained.module, trained.contract, context.folder
    compared: list[Agreement] = []
    if processes.is_main():
        load.save(module, folder, list(trained.history))
        if trained.exported:
            context.progress.say(f"{context.stage}: exporting the graph and comparing it with torch")
            export(module, contract, folder / GRAPH, context.recipe.export.opset)
            validation = context.dataset.validation.only(tuple(contract.modalities))
            compared = verify(module, folder / GRAPH, contract, validation)
        (folder / CSV).write_text(csv_of(trained.fitted.history))
        for name, other in trained.others.items():
            (folder / name).mkdir()
            load.save(other, folder / name, [])
    return StageResult(
        **provenance(contract, context),
        model=portable(described(trained.model)),
        params=params(module),
        macs=macs(module, contract),
        notes=[*trained.fitted.notes, *(() if trained.exported else (_IN_TORCH,))],
        **({"verification": [agreement.record() for agreement in compared]} if trained.exported else {"target": TORCH}),
    )


def write_unchanged(parent: Artifact, context: Context) -> StageResult:
    """Write the parent again, where nothing better was found: the same weights and graph, and nothing else."""
    if processes.is_main():
        shutil.rmtree(context.folder)
        context.folder.mkdir()
        for name in (load.WEIGHTS, load.HISTORY, GRAPH, CSV):
            if parent.file(name).is_file():
                shutil.copyfile(parent.file(name), context.folder / name)
    same = {name: parent.meta[name] for name in ("model", "params", "macs", "verification") if name in parent.meta}
    return StageResult(**same, **provenance(load.contract_of(parent), context), notes=[])


def provenance(contract: Contract, context: Context) -> dict[str, dict[str, JsonValue]]:
    """What every artifact tells of itself: its contract, and the recipe that made it, without its folders."""
    return {
        "contract": contract.model_dump(mode="json", by_alias=True),
        "recipe": portable(context.recipe),
    }


def verify(
    module: nn.Module, graph: Path, contract: Contract, samples: Samples, tolerance: float = _TOLERANCE
) -> list[Agreement]:
    """Compare the graph with the module for every subset of modalities; raises MismatchError on a miss.

    ``tolerance``: the largest difference, over the largest output.
    Raises MmedgeError where the module itself gives NaN or infinity for a sample: then it is not the export.
    """
    run, expect = onnxruntime_cpu.session(graph), module_run(module)
    outputs = outputs_of(module, contract)[0]
    found: list[Agreement] = []

    def kept(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        every = expect(inputs)
        return {name: every[name] for name in outputs}

    # Two tokens that are as likely make two texts: both are asked how likely that of the module is.
    pair = writing.behind(kept, run, contract.written[0]) if contract.written else (kept, run)
    for chosen in subsets(tuple(contract.modalities)):
        present = samples.present_of(chosen)
        for agreement in agreements("+".join(chosen), *pair, contract, samples, present):
            if not np.isfinite(agreement.largest):
                raise MmedgeError(
                    f"the model's own output {agreement.output!r} holds NaN or infinity with {agreement.subset}",
                    where=f"{samples.split} sample {samples.ids[agreement.worst]}",
                    todo="look at the model's weights and at this sample",
                )
            if not agreement.within(tolerance, SAME if agreement.whole else 0):
                rows = slice(max(0, agreement.worst - 1), agreement.worst + 1)
                inputs = {name: np.array(x[rows]) for name, x in samples.inputs.items()} | {"present": present[rows]}
                layer = first_layer_that_differs(module, contract, inputs, tolerance)
                raise MismatchError(
                    f"the exported graph differs from the model by {agreement.max_abs:.3g} in {agreement.output!r} with {agreement.subset}; "
                    + (layer or "its layers agree, so that it is what forward computes between or after them"),
                    where=str(graph),
                    todo="what changes from call to call (chance, counters, training mode) or with the batch cannot be exported",
                )
            found.append(agreement)
    check_alone(run, contract, samples, tolerance, graph)
    check_trimmed(run, contract, samples, tolerance, graph)
    return found
