"""Blocks of a network that are gone: what goes into one comes out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)


class Skipped(nn.Module):
    """In place of a block: gives its first input, in a tuple where the block gave one."""

    def __init__(self, *, wrapped: bool) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        x = next(iter([*args, *kwargs.values()]))
        return (x,) if self.wrapped else x


def skip(module: nn.Module, blocks: Mapping[str, bool]) -> None:
    """Put ``Skipped`` in the place of {block: whether it gives a tuple}, in place."""
    for name, wrapped in blocks.items():
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, Skipped(wrapped=wrapped))


@torch.no_grad()
def stacks(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, dict[str, bool]]:
    """{stack: {block: whether it gives a tuple}}: what a network could do without, as a call of it with ``inputs`` shows.

    A block is a child of an ``nn.ModuleList`` or ``nn.Sequential`` of two weighted layers or more that is called once and gives a
    tensor of its first input's shape; a stack has two or more of one class.
    """
    found = {
        f"{name}.{own}" if name else own: (name, child)
        for name, layers in module.named_modules()
        if isinstance(layers, (nn.ModuleList, nn.Sequential))
        for own, child in layers.named_children()
        if sum(isinstance(layer, _WEIGHTED) for layer in child.modules()) > 1
    }
    calls: Counter[str] = Counter()
    alike: dict[str, bool] = {}

    def look(name: str) -> Any:
        def hook(_: Any, args: Any, kwargs: Any, output: Any) -> None:
            calls[name] += 1
            first = next(iter([*args, *kwargs.values()]), None)
            given = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, Tensor) and isinstance(given, Tensor) and first.shape == given.shape:
                alike[name] = isinstance(output, tuple)

        return hook

    hooks = [child.register_forward_hook(look(name), with_kwargs=True) for name, (_, child) in found.items()]
    try:
        module.eval()(**inputs)
    finally:
        for each in hooks:
            each.remove()
    once = {name: alike[name] for name in found if calls[name] == 1 and name in alike}
    return _of_one_class(found, once)


def _of_one_class(found: Mapping[str, tuple[str, nn.Module]], once: Mapping[str, bool]) -> dict[str, dict[str, bool]]:
    by_class: dict[tuple[str, type], dict[str, bool]] = {}
    for name, wrapped in once.items():
        stack, child = found[name]
        by_class.setdefault((stack, type(child)), {})[name] = wrapped
    large = {stack: blocks for (stack, _), blocks in by_class.items() if len(blocks) > 1}
    inside: Iterable[str] = [name for blocks in large.values() for name in blocks]
    # Stacks inside a block go with it.
    return {stack: each for stack, each in large.items() if not any(f"{stack}.".startswith(f"{n}.") for n in inside)}
