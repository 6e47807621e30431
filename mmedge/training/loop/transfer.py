"""Transfer learning: what stays as it was learnt, from which epoch on it does not, and how fast each part moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from torch import nn

from mmedge.errors import UsageError, did_you_mean
from mmedge.models.lora import Adapted, adapt
from mmedge.models.pretrained import Body
from mmedge.recipe import Train


@dataclass(frozen=True)
class Transfer:
    """``frozen``: {layer: the epoch, counted from 0, from which on it is trained; None for never}, of all that is frozen at first.

    ``rates``: {parameter: what its learning rate is multiplied by}, of those that are not 1.
    """

    frozen: dict[str, int | None] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)

    def phases(self, epochs: int) -> Iterator[tuple[int, int]]:
        """[first, last) epochs within which the same is frozen."""
        cuts = sorted({0, epochs, *(at for at in self.frozen.values() if at is not None and at < epochs)})
        yield from pairwise(cuts)

    def begin(self, module: nn.Module, epoch: int) -> None:
        """Freeze what is frozen in the phase that begins with ``epoch``, and nothing else."""
        for name, until in self.frozen.items():
            layer = module.get_submodule(name)
            if until is None or epoch < until:
                _freeze(layer)
            else:
                _thaw(layer)

    def end(self, module: nn.Module) -> None:
        """Let go of everything: what is trained next decides for itself."""
        for name in self.frozen:
            _thaw(module.get_submodule(name))

    def still(self, module: nn.Module) -> set[str]:
        """Names of the parameters that never change."""
        kept = tuple(f"{name}." for name, until in self.frozen.items() if until is None)
        return {
            name
            for name, parameter in module.named_parameters(remove_duplicate=False)
            if not parameter.requires_grad and (name.startswith(kept) or not self.frozen)
        }


def transfer_of(module: nn.Module, train: Train) -> Transfer:
    """What a schedule says of ``module``, whose layers get their adapters. Raises UsageError for a name that no layer has."""
    frozen: dict[str, int | None] = {}
    for name in _frozen(module, train):
        frozen[name] = train.thaw - 1 if isinstance(train.thaw, int) else None
    for given, epoch in train.thaw.items() if isinstance(train.thaw, dict) else ():
        name = _layer(module, given, "thaw")
        if name not in frozen:
            raise UsageError(f"{given!r} is not frozen", where="train.thaw", todo="name what train.freeze freezes")
        frozen[name] = epoch - 1
    if train.lora:
        adapt([module.get_submodule(name) for name in _adapted(module, train)], train.lora)
    return Transfer(frozen, _rates(module, train))


def idle(module: nn.Module, train: Train) -> Iterator[str]:
    """What a schedule says of transfer and nothing of ``module`` follows."""
    depths = [_depths(module.get_submodule(name)) for name in _bodies(module)]
    if train.layer_decay < 1 and not any(depths):
        yield "train.layer_decay slows the blocks of pretrained encoders, and this network has none: nothing is slower by it"
    adapted = {name: module.get_submodule(name) for name in _adapted(module, train)} if train.lora else {}
    without = [name for name, body in adapted.items() if not any(isinstance(x, Adapted) for x in body.modules())]
    for name in without if len(without) < len(adapted) else ():  # of all of them it is an error
        known = {own.rpartition(".")[2] for own, x in adapted[name].named_modules() if isinstance(x, nn.Linear)}
        there = f"there are {', '.join(sorted(known))}" if known else "it has no linear layers"
        yield f"train.lora.layers names no layer of {name}, which learns nothing by it: {there}"
    named = train.thaw if isinstance(train.thaw, dict) else {"what is frozen": train.thaw}
    for name, epoch in named.items():
        if epoch is not None and epoch > train.epochs:
            yield f"train.thaw names epoch {epoch} of {train.epochs}: {name} stays as it was learnt to the end"


def _frozen(module: nn.Module, train: Train) -> list[str]:
    """The layers that are frozen at first."""
    if train.freeze == "pretrained":
        return _bodies(module)
    return [_layer(module, name, "freeze") for name in train.freeze]


def _adapted(module: nn.Module, train: Train) -> list[str]:
    """The pretrained networks that adapters go beside: the frozen ones, and all where nothing is frozen."""
    frozen = _frozen(module, train)
    return [name for name in _bodies(module) if name in frozen or not frozen]


def _bodies(module: nn.Module) -> list[str]:
    return [name for name, layer in module.named_modules() if isinstance(layer, Body)]


def _layer(module: nn.Module, name: str, key: str) -> str:
    """The layer of a name: of a modality its pretrained network or its encoder, else as in ``named_modules()``."""
    layers = dict(module.named_modules())
    for found in (f"encoders.{name}.body", f"encoders.{name}", name, f"inner.{name}"):
        if found in layers:
            return found
    known = [n.removeprefix("encoders.") for n in layers if n.count(".") < 2 and n]
    raise UsageError(
        f"the network has no encoder or layer {name!r}{did_you_mean(name, known)}",
        where=f"train.{key}",
        todo=f"there are {', '.join(known[:12])}",
    )


def _freeze(layer: nn.Module) -> None:
    """No gradient but of adapters, and evaluation mode whatever the network around it is in: no dropout, no norm's statistics."""
    layer.requires_grad_(False)
    for inner in layer.modules():
        if isinstance(inner, Adapted):
            inner.down.requires_grad_(True)
            inner.up.requires_grad_(True)
    layer.eval()
    layer.__dict__["train"] = lambda mode=True: layer


def _thaw(layer: nn.Module) -> None:
    layer.__dict__.pop("train", None)
    layer.requires_grad_(True)


def _rates(module: nn.Module, train: Train) -> dict[str, float]:
    """By the longest of the names in ``rates`` that a parameter lies in, and its depth in a pretrained network."""
    named = {_layer(module, name, "rates"): rate for name, rate in train.rates.items()}
    found: dict[str, float] = {}
    for name, _ in module.named_parameters():
        inside = [layer for layer in named if name.startswith(f"{layer}.")]
        found[name] = named[max(inside, key=len)] if inside else 1.0
    if train.layer_decay < 1:
        for body in _bodies(module):
            for name, depth in _depths(module.get_submodule(body)).items():
                found[f"{body}.{name}"] *= train.layer_decay**depth
    return {name: rate for name, rate in found.items() if rate != 1}


def _depths(body: nn.Module) -> dict[str, int]:
    """{parameter: how many blocks lie behind it}: by the longest list of blocks; what stands before all of them lies one deeper.

    Clark et al. 2020, "ELECTRA", section 3.3 of its appendix.
    """
    lists = {name: layer for name, layer in body.named_modules() if isinstance(layer, (nn.ModuleList, nn.Sequential))}
    if not lists:
        return {}
    name, blocks = max(lists.items(), key=lambda item: len(item[1]))
    places = {own: place for place, (own, _) in enumerate(blocks.named_children())}  # a Sequential may name its own
    depths, passed = {}, False
    for parameter, _ in body.named_parameters():
        if parameter.startswith(f"{name}."):
            passed = True
            depths[parameter] = len(blocks) - 1 - places[parameter.removeprefix(f"{name}.").partition(".")[0]]
        else:
            depths[parameter] = 0 if passed else len(blocks)
    return depths
