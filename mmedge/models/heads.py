"""How a network of the user's own meets the contract: presence, input names and output."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmedge.errors import UsageError, did_you_mean
from mmedge.models.fusion import repeated


class Rescale(nn.Module):
    """From standard units to a regression target's own: ``x * std + mean``, so that the scale need not be learned."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.std + self.mean


class Wrapped(nn.Module):
    """A user's module behind ``forward(present, **inputs) -> {output: tensor}``.

    A module whose ``forward`` has no ``present`` gets the training mean in place of an absent modality. ``names`` maps
    modalities to the parameters of its ``forward``; ``means``: {modality: [*shape]}, of the input's dtype. ``unit``
    comes after its output: ``Rescale`` where a regression's targets are learned in standard units.
    """

    def __init__(
        self,
        inner: nn.Module,
        names: Mapping[str, str],
        means: Mapping[str, Tensor],
        output: str,
        unit: Rescale | None = None,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.unit = unit if unit is not None else nn.Identity()
        self.names = dict(names)
        self.output = output
        self.takes_present = _takes(inner, "present")
        for name, mean in means.items():
            self.register_buffer(f"mean_{name}", mean.clone())
        _check_parameters(inner, self.names)

    def forward(self, present: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        if present.dim() == 3:  # in training: k answers a sample, as FusionNet gives them
            inputs = {name: repeated(x, present.shape[1]) for name, x in inputs.items()}
            present = present.flatten(0, 1)
        arguments: dict[str, Tensor] = {}
        for index, (name, parameter) in enumerate(self.names.items()):
            x = inputs[name]
            if not self.takes_present:
                there = present[:, index].reshape(-1, *(1 for _ in x.shape[1:]))
                x = torch.where(there, x, getattr(self, f"mean_{name}"))
            arguments[parameter] = x
        result = self.inner(**arguments, **({"present": present} if self.takes_present else {}))
        return {self.output: self.unit(self._answer(result))}

    def _answer(self, result: Any) -> Tensor:
        if isinstance(result, Tensor):
            return result
        if isinstance(result, Mapping) and isinstance(result.get(self.output), Tensor):
            answer: Tensor = result[self.output]
            return answer
        found = f"a dict of {sorted(result)}" if isinstance(result, Mapping) else type(result).__name__
        raise UsageError(
            f"the module must return a tensor or a dict with {self.output!r}, not {found}",
            where=type(self.inner).__qualname__,
        )


def _parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(module.forward).parameters


def _takes(module: nn.Module, name: str) -> bool:
    return name in _parameters(module)


def _check_parameters(module: nn.Module, names: Mapping[str, str]) -> None:
    parameters = _parameters(module)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for modality, name in names.items():
        if name not in parameters:
            raise UsageError(
                f"forward has no parameter {name!r} for the modality {modality!r}{did_you_mean(name, parameters)}; it has {', '.join(parameters)}",
                where=type(module).__qualname__,
                todo=f"name it in the recipe: model.inputs: {{{modality}: <parameter>}}",
            )
