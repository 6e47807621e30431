"""Layers that a recipe names to be left alone, held against the untrained network: ``prune.ignore`` and ``quantize.ignore``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    sections = {name: found for name in ("prune", "quantize") if (found := getattr(recipe, name)) and found.ignore}
    teacher = recipe.teacher
    if not sections or (recipe.distill is None and (teacher.onnx or teacher.outputs)):
        return []
    section = recipe.distill.model if recipe.distill else teacher.model
    own = own_contract(TeacherConfig(model=section) if recipe.distill else teacher, contract)
    try:
        module = load.build(section, own, factory=factory(section), fresh=True).eval()
    except Exception:
        return []
    found = []
    for name, config in sections.items():
        known = ignorable(module) if name == "prune" else dict.fromkeys([*own.modalities, "fusion", *_names(module)])
        missing = [layer for layer in config.ignore if layer not in known]
        if missing and name == "quantize":
            nodes = _nodes(module, own)
            missing = [layer for layer in missing if nodes is not None and layer not in nodes]
        found += [
            Fault(
                "error",
                "ignore",
                f"{name}.ignore: no layer {layer!r}{did_you_mean(layer, known)}",
                module=f"{name}.ignore",
                todo=f"there are {', '.join(name for name in ignorable(module) if not name.startswith('inner.'))}",
            )
            for layer in missing
        ]
    return found


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
