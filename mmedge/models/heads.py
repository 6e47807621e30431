"""How a network of the user's own meets the contract: presence, input names and output."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mmedge.errors import UsageError, did_you_mean
from mmedge.models.fusion import repeated
from mmedge.models.pretrained.huggingface import attended
from mmedge.models.towers import Vectors


class Rescale(nn.Module):
    """From standard units to a regression target's own: ``x * std + mean``, so that the scale need not be learned.

    ``mean``, ``std``: of each column, where there are several.
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.std + self.mean


class Wrapped(nn.Module):
    """A user's module behind ``forward(present, **inputs) -> {output: tensor}``, the heads first.

    A module whose ``forward`` has no ``present`` gets the training mean in place of an absent modality, and one token
    in place of an absent text. ``names`` maps modalities to the parameters of its ``forward``; ``means``: {modality:
    [*shape]}, of the input's dtype. ``heads``: {head: what comes after the module's output for it}, ``Rescale`` where
    targets are learned in standard units, else nothing. ``outputs``: those to give of the module's, the heads' in their
    order first; all, where none are named. ``masks``: {modality: (the parameter of its attention mask, the id of padding)}. The vectors of towers are one output, [batch, towers * dimensions].
    """

    def __init__(
        self,
        inner: nn.Module,
        names: Mapping[str, str],
        means: Mapping[str, Tensor],
        heads: Mapping[str, nn.Module | None],
        outputs: Sequence[str] = (),
        masks: Mapping[str, tuple[str, int]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.inner, self.masks = inner, dict(masks)
        units = {name: unit if unit is not None else nn.Identity() for name, unit in heads.items()}
        # One head is not under its name, as artifacts of version 0.1 have it.
        self.unit = nn.ModuleDict(units) if len(units) > 1 else next(iter(units.values()))
        self.names = dict(names)
        self.heads, self.outputs = tuple(heads), tuple(outputs)
        self.takes_present = _takes(inner, "present")
        for name, mean in means.items():
            self.register_buffer(f"mean_{name}", mean.clone())
        _check_parameters(inner, self.names)
        _check_parameters(inner, {name: parameter for name, (parameter, _) in self.masks.items()})

    def forward(self, present: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        if present.dim() == 3:  # in training: k outputs a sample, as FusionNet gives them
            inputs = {name: repeated(x, present.shape[1]) for name, x in inputs.items()}
            present = present.flatten(0, 1)
        arguments: dict[str, Tensor] = {}
        for index, (name, parameter) in enumerate(self.names.items()):
            x = inputs[name]
            if not self.takes_present:
                there = present[:, index].reshape(-1, *(1 for _ in x.shape[1:]))
                absent = getattr(self, f"mean_{name}")
                # A text may be given at any length up to that of what stands in for it.
                x = torch.where(
                    there, x, absent[: x.shape[-1]] if x.dim() == 2 and not x.is_floating_point() else absent
                )
            arguments[parameter] = x
            if name in self.masks:
                mask, pad = self.masks[name]
                arguments[mask] = attended(x, pad).to(torch.int64)
        result = self.inner(**arguments, **({"present": present} if self.takes_present else {}))
        named = {name: value for name, value in entries(result).items() if isinstance(value, Tensor)}
        if not named:
            raise UsageError(
                f"the module must return a tensor, or several by name, not {type(result).__name__}",
                where=type(self.inner).__qualname__,
            )
        wanted = self.outputs or self._all_of(named)
        head_outputs, others = wanted[: len(self.heads)], wanted[len(self.heads) :]
        missing = [name for name in wanted if name not in named]
        taken = [name for name in others if name in self.heads]
        if missing or taken:
            raise UsageError(
                f"the module gives no tensor {missing[0]!r}{did_you_mean(missing[0], named)}; it gives {', '.join(named)}"
                if missing
                else f"the head {taken[0]!r} is called so in graphs, and another output of the module has this name",
                where=type(self.inner).__qualname__,
                todo="look at model.outputs in the recipe",
            )
        units = self.unit if isinstance(self.unit, nn.ModuleDict) else {self.heads[0]: self.unit}
        of_heads = {head: _after(units[head], named[name], present) for head, name in zip(self.heads, head_outputs)}
        return of_heads | {name: named[name] for name in others}

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        """Version 0.1 wrote one token for an absent text of any length."""
        for name in self.names:
            key, now = f"{prefix}mean_{name}", getattr(self, f"mean_{name}")
            if key in state_dict and state_dict[key].shape == (1,) != now.shape:
                state_dict[key] = state_dict[key].expand(now.shape)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _all_of(self, named: Mapping[str, Tensor]) -> list[str]:
        """The names of all outputs, the heads' first."""
        if len(self.heads) == len(named) == 1:
            return list(named)
        lacking = [name for name in self.heads if name not in named]
        if lacking:
            raise UsageError(
                f"the module gives {', '.join(named)}, and none of them is called {lacking[0]!r}",
                where=type(self.inner).__qualname__,
                todo=f"say which are the heads', in the order {', '.join(self.heads)}, and what else to keep: model.outputs: [{', '.join(named)}]",
            )
        return [*self.heads, *(name for name in named if name not in self.heads)]


def _after(unit: nn.Module, output: Tensor, present: Tensor) -> Tensor:
    """What a unit makes of an output; that of towers needs to know what is present. Of another width it is left alone, and told."""
    if not isinstance(unit, Vectors):
        return unit(output)
    fits = output.dim() == 2 and output.shape[1] == len(unit.sees) * len(unit.nothing)
    return unit(output.tensor_split(len(unit.sees), dim=1), present) if fits else output


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
