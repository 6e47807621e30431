"""Layers that a recipe names to be left alone, held against the untrained network: ``prune.ignore`` and ``quantize.ignore``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import nn

from mmedge.artifact import GRAPH
from mmedge.contract import Contract
from mmedge.errors import Fault, MmedgeError, did_you_mean
from mmedge.graph.export import export
from mmedge.leftovers import scratch
from mmedge.models import load
from mmedge.recipe import Model, Recipe, TeacherConfig
from mmedge.stages.prune.groups import ignorable
from mmedge.training.faults import own_contract


def ignored_faults(recipe: Recipe, contract: Contract, factory: Callable[[Model], object]) -> list[Fault]:
    """A fault for each name that no layer of the network that is compressed has. ``contract``: the data's.

    Graphs of another origin are not looked at, and networks that cannot be built: that is told where models are.
    """
    sections = {name: found for name in _MISSING if (found := getattr(recipe, name)) and found.ignore}
    teacher = recipe.teacher
    if not sections or (recipe.distill is None and (teacher.onnx or teacher.outputs)):
        return []
    section = recipe.distill.model if recipe.distill else teacher.model
    own = own_contract(TeacherConfig(model=section) if recipe.distill else teacher, contract)
    try:
        module = load.build(section, own, factory=factory(section), fresh=True).eval()
    except Exception:
        return []
    known = ignorable(module)
    return [
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
