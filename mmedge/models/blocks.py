"""A network of some of another's blocks: which are kept, and their weights taken over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from mmedge.errors import UsageError, did_you_mean


def keep_blocks(module: nn.Module, kept: Mapping[str, Sequence[int]]) -> None:
    """Leave of each list of blocks only those at some places, in that order, in place.

    ``kept``: {modality, or a layer's name: places from 0}. Raises UsageError where no such list, or no such block, is there.
    """
    for name, places in kept.items():
        where = list_of(module, name)
        blocks = module.get_submodule(where)
        if beyond := [place for place in places if place >= len(blocks)]:
            raise UsageError(
                f"{where} has {len(blocks)} blocks, 0 to {len(blocks) - 1}, and no block {beyond[0]}",
                where="model.layers",
            )
        parent, _, own = where.rpartition(".")
        setattr(module.get_submodule(parent), own, type(blocks)(*_given(blocks, places)))


def _given(blocks: nn.Module, places: Sequence[int]) -> list[object]:
    """What makes a list of the blocks: a ModuleList takes one list, a Sequential each by itself."""
    chosen = [list(blocks.children())[place] for place in places]
    return [chosen] if isinstance(blocks, nn.ModuleList) else [*chosen]


def list_of(module: nn.Module, name: str) -> str:
    """The name of the longest list of blocks of one form in a modality's encoder, or in a layer of the module."""
    layers = dict(module.named_modules())
    inside = next((own for own in (f"encoders.{name}", name, f"inner.{name}") if own in layers), None)
    if inside is None:
        known = [each.removeprefix("encoders.") for each in layers if each and each.count(".") < 2]
        raise UsageError(
            f"the network has no encoder or layer {name!r}{did_you_mean(name, known)}", where="model.layers"
        )
    lists = {
        each: layer
        for each, layer in layers.items()
        if (each == inside or each.startswith(f"{inside}.")) and _alike(layer)
    }
    if not lists:
        raise UsageError(
            f"{inside} has no list of blocks that are alike",
            where="model.layers",
            todo="name a ModuleList or Sequential of such blocks, as in named_modules()",
        )
    return max(lists, key=lambda each: len(list(lists[each].children())))


def _alike(layer: nn.Module) -> bool:
    """Whether it lists two blocks or more, with weights of the same names and shapes, and the same activations, in each.

    Two convolutions inside a block of a ResNet may have weights of one form, but an activation stands behind the first alone.
    """
    if not isinstance(layer, (nn.ModuleList, nn.Sequential)) or len(layer) < 2:
        return False
    forms = [[(name, x.shape) for name, x in block.named_parameters()] for block in layer]
    return bool(forms[0]) and all(form == forms[0] for form in forms) and len({*map(_activations, layer)}) == 1


def _activations(block: nn.Module) -> tuple[str, ...]:
    """Kinds of its layers without weights, but for those that do nothing when it is evaluated: dropout grows from block to block."""
    kinds = [type(layer).__name__ for layer in block.modules() if not list(layer.parameters())]
    return tuple(kind for kind in kinds if not any(word in kind.lower() for word in ("identity", "drop")))


def take_over(module: nn.Module, teacher: nn.Module, kept: Mapping[str, Sequence[int]]) -> None:
    """Give ``module``, a network of ``kept`` blocks of ``teacher``'s form, the weights of the teacher's.

    Sanh et al. 2019, "DistilBERT", whose student begins as every second layer of its teacher. Raises UsageError where the
    teacher has no weights of this form.
    """
    theirs, ours = teacher.state_dict(), module.state_dict()
    places = {list_of(teacher, name): list(chosen) for name, chosen in kept.items()}
    found = {name: theirs.get(_theirs(name, places)) for name in ours}
    lacking = [name for name, x in found.items() if x is None or x.shape != ours[name].shape]
    if lacking:
        raise UsageError(
            f"the teacher has no weights of the form of {lacking[0]} ({len(lacking)} of {len(ours)})",
            where="distill.from_teacher",
            todo="take the teacher that the recipe describes, and give data.modalities its preprocessing",
        )
    with torch.no_grad():
        module.load_state_dict({name: x for name, x in found.items() if x is not None})


def _theirs(name: str, places: Mapping[str, Sequence[int]]) -> str:
    """What a weight of the network of fewer blocks is called in the whole one."""
    for where, chosen in places.items():
        if name.startswith(f"{where}."):
            own, _, rest = name.removeprefix(f"{where}.").partition(".")
            return f"{where}.{chosen[int(own)]}.{rest}"
    return name
