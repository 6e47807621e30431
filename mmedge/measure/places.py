"""Where in a network what happens, found by running it: what sees one modality alone, its last maps, what stands before the head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.graph.trace import generated

# Rows of the generated inputs; an axis that is as long is taken for the samples'.
_ROWS = 3
# (layer, number of its call).
Key = tuple[str, int]


@dataclass(frozen=True)
class Place:
    """A tensor that a layer ``gives``, or takes, in one of its calls. ``axis``: its samples'."""

    layer: str
    call: int
    gives: bool
    axis: int


@dataclass(frozen=True)
class Places:
    """``encoders``: {modality: the last that depends on it alone}; ``maps``: {modality: its last convolutional map [n,
    channels, height, width], of a layer that is called once}; ``fusion``: what the head is given, where it depends on several.
    """

    encoders: dict[str, Place]
    maps: dict[str, Place]
    fusion: Place | None


@dataclass
class _Call:
    """``depends``: the modalities that change what the layer gives; ``takes``: those that change what it is given."""

    key: Key
    given: Tensor | None
    output: Tensor
    layer: nn.Module
    depends: set[str] = field(default_factory=set)
    takes: set[str] = field(default_factory=set)


def places_of(module: nn.Module, contract: Contract, head: str) -> Places:
    """The places of any network, by hooks: a layer's output depends on a modality where other values of that change it."""
    inputs, calls = generated(contract, _ROWS), dict[Key, _Call]()

    def keep(key: Key, layer: nn.Module, given: Any, output: Any) -> None:
        value, taken = _first(output), _first(given)
        if value is not None:
            calls[key] = _Call(key, None if taken is None else taken.clone(), value.clone(), layer)

    outputs = _run(module, inputs, keep)
    for name in contract.modalities:

        def compare(key: Key, layer: nn.Module, given: Any, output: Any, name: str = name) -> None:
            before = calls.get(key)
            if before is not None:
                for value, was, changed in (
                    (_first(output), before.output, before.depends),
                    (_first(given), before.given, before.takes),
                ):
                    if value is not None and was is not None and not torch.equal(value, was):
                        changed.add(name)

        _run(module, {**inputs, name: inputs[name].roll(1, 0)}, compare)
    raw = {
        id(call) for call in calls.values() for x in inputs.values() if call.given is not None and _same(call.given, x)
    }
    able = [at for at, call in enumerate(calls.values()) if call.layer._parameters and id(call) not in raw]
    return _chosen(list(calls.values()), able, list(contract.modalities), outputs[head])


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _chosen(calls: list[_Call], able: list[int], names: list[str], logits: Tensor) -> Places:
    """Of the calls in the order in which they ended; ``able``: those of layers with weights that are given no input itself."""
    joint = [at for at in able if len(names) == 1 or len(calls[at].takes) > 1]
    own = [at for at in joint if torch.equal(calls[at].output, logits)]
    at = (own or joint or [len(calls)])[-1]
    fusion = _place(calls[at], gives=False) if joint else None
    if len(names) == 1:
        encoders = {names[0]: fusion} if fusion else {}
        fusion = None
    else:
        found = [(name, _last(calls[:at], name)) for name in names]
        encoders = {name: place for name, place in found if place}
    maps = {name: place for name in names if (place := _map(calls[:at], name))}
    return Places(encoders, maps, fusion)


def _last(calls: list[_Call], name: str) -> Place | None:
    found = [place for call in calls if call.depends == {name} and (place := _place(call, gives=True))]
    return found[-1] if found else None


def _map(calls: list[_Call], name: str) -> Place | None:
    """What the last convolution gives, behind its norm and activation: what has its shape and ended last.

    None where tokens are made of it: a convolution that cuts a picture into patches has seen nothing yet.
    """
    own = [call for call in calls if call.depends == {name} and call.output.dim() in (3, 4)]
    if any(call.output.dim() == 3 for call in own):
        return None
    shapes = [c.output.shape for c in own if isinstance(c.layer, nn.Conv2d) and c.output.shape[2:].numel() > 3]
    several = {key[0] for key in (call.key for call in calls) if key[1]}
    found = [call for call in own if shapes and call.output.shape == shapes[-1] and call.key[0] not in several]
    return _place(found[-1], gives=True) if found else None


def _place(call: _Call, gives: bool) -> Place | None:
    value = call.output if gives else call.given
    if value is None or not value.is_floating_point():
        return None
    axis = next((axis for axis, size in enumerate(value.shape[:2]) if size == _ROWS), None)
    return None if axis is None or value.dim() < 2 else Place(*call.key, gives, axis)


def _first(value: Any) -> Tensor | None:
    """The first tensor of what a layer takes or gives."""
    if isinstance(value, Tensor):
        return value.detach()
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return next((found for part in parts if (found := _first(part)) is not None), None)


def _run(module: nn.Module, inputs: Mapping[str, Tensor], seen: Callable[[Key, nn.Module, Any, Any], None]) -> Any:
    with watched(module, seen), torch.no_grad():
        return module(**inputs)


@contextmanager
def watched(module: nn.Module, seen: Callable[[Key, nn.Module, Any, Any], None]) -> Iterator[None]:
    """Inside, ``seen((layer, number of its call), layer, what it takes, what it gives)`` of every call, the innermost first."""
    counts: dict[str, int] = {}

    def hook(name: str) -> Callable[..., None]:
        def ended(layer: nn.Module, given: Any, named: Any, output: Any) -> None:
            counts[name] = counts.get(name, -1) + 1
            seen((name, counts[name]), layer, given or named, output)

        return ended

    hooks = [layer.register_forward_hook(hook(name), with_kwargs=True) for name, layer in layers_of(module).items()]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def layers_of(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that can be hooked: those that are compiled with ``torch.jit`` cannot."""
    return {
        name: layer for name, layer in module.named_modules() if name and not isinstance(layer, torch.jit.ScriptModule)
    }


def taken_at(place: Place, given: Any, output: Any) -> Tensor | None:
    """What stands at a place, samples first."""
    value = _first(output if place.gives else given)
    return None if value is None else value.transpose(0, place.axis)
