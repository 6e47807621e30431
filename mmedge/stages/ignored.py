"""Layers and branches that a recipe names, held against the untrained network: ``prune.ignore``, ``prune.branches`` and
``quantize.ignore``; and ``prune.importance``, which a network may have nothing for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import nn

from mmedge.artifact import GRAPH
from mmedge.contract import Contract
from mmedge.errors import Fault, MmedgeError, UsageError, did_you_mean
from mmedge.graph.export import export
from mmedge.leftovers import scratch
from mmedge.models import load
from mmedge.recipe import Model, Prune, Recipe, TeacherConfig
from mmedge.stages.prune.branches import branches_of, largest_ratios
from mmedge.stages.prune.groups import groups_of, ignorable, importance_of, take_apart
from mmedge.training.faults import own_contract


def ignored_faults(recipe: Recipe, contract: Contract, factory: Callable[[Model], object]) -> list[Fault]:
    """A fault for each name that no layer or branch of the network that is compressed has, and for a ranking that it cannot
    be given. ``contract``: the data's.

    Graphs of another origin are not looked at, and networks that cannot be built: that is told where models are.
    """
    sections = {name: found for name in _MISSING if (found := getattr(recipe, name)) and found.ignore}
    teacher, prune = recipe.teacher, recipe.prune
    ranks = prune is not None and bool(prune.branches or prune.importance == "bn")
    if not (sections or ranks) or (recipe.distill is None and (teacher.onnx or teacher.outputs)):
        return []
    section = recipe.distill.model if recipe.distill else teacher.model
    own = own_contract(TeacherConfig(model=section) if recipe.distill else teacher, contract)
    try:
        module = load.build(section, own, factory=factory(section), fresh=True).eval()
    except Exception:
        return []
    known = ignorable(module)
    faults = [
        Fault(
            "error",
            "ignore",
            f"{name}.ignore: no layer {layer!r}{did_you_mean(layer, known)}",
            module=f"{name}.ignore",
            todo=f"there are {', '.join(layer for layer in known if not layer.startswith('inner.'))}",
        )
        for name, config in sections.items()
        for layer in _MISSING[name](config.ignore, module, own)
    ]
    return faults if prune is None or not ranks else [*faults, *_unranked(prune, module, own)]


def _unranked(config: Prune, module: nn.Module, contract: Contract) -> Iterator[Fault]:
    """What pruning would refuse of ``branches`` and ``importance``; nothing of a network that it cannot cut, which it tells itself."""
    try:
        importance_of(config, module)
    except UsageError as error:
        yield Fault.of(error, "importance", file=None, module=error.where)
    if not config.branches:
        return
    try:
        take_apart(module)
        branches = branches_of(module, contract, groups_of(module, contract, Prune())[0])
    except Exception:
        return
    try:
        largest_ratios(config, branches)
    except UsageError as error:
        yield Fault.of(error, "branches", module="prune.branches")


def _unprunable(layers: Sequence[str], module: nn.Module, contract: Contract) -> list[str]:
    """Those of ``layers`` that pruning does not know."""
    known = ignorable(module)
    return [layer for layer in layers if layer not in known]


def _unquantizable(layers: Sequence[str], module: nn.Module, contract: Contract) -> list[str]:
    """Those of ``layers`` that are no branch, no module, and no node of the graph, which is exported for them alone."""
    known = {*contract.modalities, "fusion", *_names(module)}
    missing = [layer for layer in layers if layer not in known]
    nodes = _nodes(module, contract) if missing else set()
    return [] if nodes is None else [layer for layer in missing if layer not in nodes]


# The section of a stage that leaves layers alone, and what tells the layers that it does not know.
_MISSING: dict[str, Callable[[Sequence[str], nn.Module, Contract], list[str]]] = {
    "prune": _unprunable,
    "quantize": _unquantizable,
}


def _names(module: nn.Module) -> Iterator[str]:
    """Names of submodules, of which each stands for all in it, as the recipe's reader and as the graph knows them."""
    for name, _ in module.named_modules():
        yield from (name, name.removeprefix("inner."))


def _nodes(module: nn.Module, contract: Contract) -> set[str] | None:
    """Names of the exported graph's nodes; None where it is not exported, which is told elsewhere."""
    import onnx

    with scratch() as folder:
        try:
            export(module, contract, folder / GRAPH)
        except MmedgeError:
            return None
        return {node.name for node in onnx.load(folder / GRAPH).graph.node}
