"""Structured pruning by torch-pruning's dependency graph, with recovery by distillation in the one training loop."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.artifact import Artifact
from mmedge.errors import MmedgeError, UsageError, did_you_mean
from mmedge.graph.trace import example
from mmedge.measure.cost import macs
from mmedge.models import load
from mmedge.recipe import Distill, Loss, Model, Prune
from mmedge.spec import Contract
from mmedge.stages.trained import write_trained
from mmedge.training.context import Context
from mmedge.training.fit import fit
from mmedge.training.objectives import Distillation, supervised
from mmedge.training.taught import taught_samples, teacher_for

_PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)
_LARGEST_RATIO, _RATIO_STEPS = 0.95, 40


def prune(parent: Artifact, config: Prune, context: Context, target: Path, key: str) -> Artifact:
    """Remove channels until at most ``config.macs`` of the parent's MACs are left, then recover with the teacher."""
    contract, section = load.contract_of(parent), Model.model_validate(parent.meta["model"])
    module = context.rebuild(parent)
    before = macs(module, contract)
    history = remove_channels(module, contract, config, context.progress.say)
    history = load.history_of(parent) + history
    teaching = context.recipe.distill or Distill()
    if "loss" in parent.meta:  # the one that distillation settled on
        teaching = teaching.model_copy(update={"loss": Loss.model_validate(parent.meta["loss"])})
    samples, validation = (
        taught_samples(teaching, context, contract),
        context.dataset.validation.only(tuple(contract.modalities)),
    )
    torch.manual_seed(context.recipe.seed)
    taught = (
        context.teacher is not None
        and context.teacher.sha256 != parent.sha256
        and parent.meta.get("decision", {}).get("kept") != "control"  # the student does better without
    )
    notes: tuple[str, ...] = ()
    if taught:
        teacher = teacher_for(teaching, context, config.train)
        notes = teacher.notes
        objective: Any = Distillation(module, teacher, contract, teaching.loss, config.train)
    else:
        objective = supervised(contract, config.train)
    fitted = fit(
        module,
        objective,
        contract,
        samples,
        validation,
        config.train,
        seed=context.recipe.seed,
        view_seed=context.recipe.seed,
        usable=np.arange(len(samples)) if taught else np.flatnonzero(samples.labelled),
        state=context.work / "prune.safetensors",
        task="recovering after pruning",
        progress=context.progress,
        logs=context.logs / "prune",
    )
    after = macs(module, contract)
    note = f"{1 - after / before:.0%} of the parent's MACs removed by magnitude importance, recovered {'with the teacher' if taught else 'without a teacher'}"
    return write_trained(
        module,
        contract,
        fitted,
        context=context,
        model=section,
        stage="prune",
        target=target,
        key=key,
        parent=parent,
        history=history,
        notes=(note, *notes),
    )


def remove_channels(module: nn.Module, contract: Contract, config: Prune, say: Any) -> list[Any]:
    """Prune ``module`` in place by the smallest uniform ratio that meets ``config.macs``; returns the pruning history.

    Raises MmedgeError where no ratio meets it.
    """
    before = macs(module, contract)
    ignored = _ignored(module, contract, config)
    for step in range(1, _RATIO_STEPS):
        ratio = _LARGEST_RATIO * step / _RATIO_STEPS
        try:
            trial, history = _pruned(module, contract, config, ignored, ratio)
            share = macs(trial, contract) / before
        except (IndexError, RuntimeError, KeyError, AssertionError) as error:
            # What its dependency graph cannot follow, a flattened map in a concatenation above all, shows only so.
            raise MmedgeError(
                f"torch-pruning cannot prune this model: {(str(error) or type(error).__name__).splitlines()[0]}",
                where="prune",
                todo="put a linear layer or a pooling between flatten and concatenation, name layers in prune.ignore, or leave out prune",
            ) from error
        if share <= config.macs:
            say(f"prune: a channel ratio of {ratio:.2f} leaves {share:.0%} of the MACs")
            load.apply_history(module, history, contract)
            return history
    raise MmedgeError(
        f"pruning cannot reach {config.macs:.0%} of the parent's MACs",
        where="prune.macs",
        todo="ask for more MACs, a smaller round_to, or ignore fewer layers",
    )


def _pruned(
    module: nn.Module, contract: Contract, config: Prune, ignored: list[str], ratio: float
) -> tuple[nn.Module, list[Any]]:
    import torch_pruning

    trial = copy.deepcopy(module).eval()
    layers = dict(trial.named_modules())
    pruner = torch_pruning.pruner.BasePruner(
        trial,
        example(contract),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=config.round_to,
        ignored_layers=[layers[name] for name in ignored],
        forward_fn=lambda model, inputs: model(**inputs),
        output_transform=lambda result: list(result.values()),
        **load.unwrapped(trial),
    )
    pruner.step()
    return trial, pruner.pruning_history()


def _ignored(module: nn.Module, contract: Contract, config: Prune) -> list[str]:
    """The layers that stay as they are: those that the recipe names, and the last one, whose width is the contract's."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, _PRUNABLE)}
    known = {name.removeprefix("inner."): name for name in layers}
    for name in config.ignore:
        if name not in known and name not in layers:
            raise UsageError(
                f"prune.ignore: no layer {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}"
            )
    order: list[str] = []
    hooks = [
        layer.register_forward_hook(
            lambda _m, _i, output, name=name: order.append(name) if _width(output) == contract.outputs else None
        )
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        module.eval()(**example(contract))
    for hook in hooks:
        hook.remove()
    return [*(known.get(name, name) for name in config.ignore), *order[-1:]]


def _width(output: Tensor) -> int:
    return output.shape[-1] if output.dim() < 3 else output.shape[1]
