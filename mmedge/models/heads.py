"""How a network of the user's own meets the contract: presence, input names and output."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
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
    """A user's module behind ``forward(present, **inputs) -> {output: tensor}``, the answer first.

    A module whose ``forward`` has no ``present`` gets the training mean in place of an absent modality, and one token
    in place of an absent text. ``names`` maps
    modalities to the parameters of its ``forward``; ``means``: {modality: [*shape]}, of the input's dtype. ``unit``
    comes after its answer: ``Rescale`` where a regression's targets are learned in standard units. ``outputs``: those
    to give of the module's, the answer first; all, where none are named.
    """

    def __init__(
        self,
        inner: nn.Module,
        names: Mapping[str, str],
        means: Mapping[str, Tensor],
        output: str,
        unit: Rescale | None = None,
        outputs: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.inner = inner
        self.unit = unit if unit is not None else nn.Identity()
        self.names = dict(names)
        self.output, self.outputs = output, tuple(outputs)
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
                absent = getattr(self, f"mean_{name}")
                # A text may be given at any length up to that of what stands in for it.
                x = torch.where(there, x, absent if x.is_floating_point() else absent[: x.shape[-1]])
            arguments[parameter] = x
        result = self.inner(**arguments, **({"present": present} if self.takes_present else {}))
        named = {name: value for name, value in entries(result).items() if isinstance(value, Tensor)}
        if not named:
            raise UsageError(
                f"the module must return a tensor, or several by name, not {type(result).__name__}",
                where=type(self.inner).__qualname__,
            )
        answer, *others = self.outputs or self._all_of(named)
        missing = [name for name in (answer, *others) if name not in named]
        if missing or self.output in others:
            raise UsageError(
                f"the module gives no tensor {missing[0]!r}{did_you_mean(missing[0], named)}; it gives {', '.join(named)}"
                if missing
                else f"the answer {answer!r} is called {self.output!r} in graphs, and another output has this name",
                where=type(self.inner).__qualname__,
                todo="look at model.outputs in the recipe",
            )
        return {self.output: self.unit(named[answer]), **{name: named[name] for name in others}}

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        """Version 0.1 wrote one token for an absent text of any length."""
        for name in self.names:
            key, now = f"{prefix}mean_{name}", getattr(self, f"mean_{name}")
            if key in state_dict and state_dict[key].shape == (1,) != now.shape:
                state_dict[key] = state_dict[key].expand(now.shape)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _all_of(self, named: Mapping[str, Tensor]) -> list[str]:
        """The names of all outputs, the answer first."""
        if self.output not in named and len(named) != 1:
            raise UsageError(
                f"the module gives {', '.join(named)}, and none of them is called {self.output!r}",
                where=type(self.inner).__qualname__,
                todo=f"say which is the answer, and what else to keep: model.outputs: [{', '.join(named)}], the answer first",
            )
        answer = self.output if self.output in named else next(iter(named))
        return [answer, *(name for name in named if name != answer)]


def entries(result: Any) -> dict[str, Any]:
    """What a forward gives, by name: of a dict, a tuple (``output_0``, ... where it has no names) or a dataclass."""
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    if isinstance(result, (tuple, list)):
        return dict(zip(getattr(result, "_fields", [f"output_{index}" for index in range(len(result))]), result))
    return dict(vars(result)) if dataclasses.is_dataclass(result) else {"output_0": result}


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
