"""The teacher: trained here, or taken as it is from the weights that the recipe names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mmedge.artifact import Artifact, creating, read
from mmedge.graph.adopt import adopt, count
from mmedge.recipe import Teacher
from mmedge.spec import Contract
from mmedge.stages.trained import GRAPH, provenance, write_trained
from mmedge.training.context import Context
from mmedge.training.fit import Fitted, fit
from mmedge.training.objectives import supervised


def train(parent: Artifact | None, config: Teacher, context: Context, target: Path, key: str) -> Artifact:
    """Train the teacher on all labels, or take it as it is. ``parent`` is None: it is the root of the run."""
    contract = context.contract(config.model)
    if config.onnx is not None:
        return _adopted(config, contract, config.onnx, context, target, key)
    samples, validation = (
        split.only(tuple(contract.modalities)) for split in (context.dataset.train, context.dataset.validation)
    )
    torch.manual_seed(context.recipe.seed)
    module = context.build(config.model, contract)
    if config.train is None:
        fitted = Fitted([], 0, ("taken from its weights, not trained here",))
    else:
        fitted = fit(
            module,
            supervised(contract, config.train),
            contract,
            samples,
            validation,
            config.train,
            seed=context.recipe.seed,
            view_seed=context.recipe.seed,
            usable=np.flatnonzero(samples.labelled),
            state=context.work / "teacher.safetensors",
            task="training the teacher",
            progress=context.progress,
            logs=context.logs / "teacher",
        )
    return write_trained(
        module,
        contract,
        fitted,
        context=context,
        model=config.model,
        stage="teacher",
        target=target,
        key=key,
        parent=None,
    )


def _adopted(config: Teacher, contract: Contract, source: Path, context: Context, target: Path, key: str) -> Artifact:
    """The artifact of an ONNX teacher: the file behind the contract. It can teach, and not be pruned."""
    with creating(target, stage="teacher", key=key, parent=None) as (folder, meta):
        names = {name: config.model.inputs.get(name, name) for name in contract.modalities}
        adopt(source, contract, names, context.means(contract), folder / GRAPH)
        parameters, multiplied = count(folder / GRAPH)
        meta |= {"params": parameters, "macs": multiplied, "notes": [f"an ONNX file, taken as it is: {source.name}"]}
        meta |= provenance(contract, context)
    return read(target)
