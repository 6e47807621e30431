"""Which branch of a model a group of channels belongs to: one modality's encoder, or a part behind their meeting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmedge.backends.branches import FUSION
from mmedge.contract import Contract
from mmedge.errors import UsageError, did_you_mean
from mmedge.graph.trace import noise
from mmedge.recipe import Prune
from mmedge.stages.prune.groups import PRUNABLE, ChannelGroup


def branches_of(module: nn.Module, contract: Contract, groups: list[ChannelGroup]) -> dict[str, list[ChannelGroup]]:
    """{branch: its groups}: a modality's name where no other reaches the group's layers, else the top-level part's name.

    Encoders are found by what they do and not by their name, so that a user's module needs to declare nothing.
    """
    reached = modalities_reaching(module, contract)
    branches: dict[str, list[ChannelGroup]] = {}
    for group in groups:
        branches.setdefault(branch_of(group.layers, reached, contract, group.root), []).append(group)
    order = [*contract.modalities, *branches]
    return dict(sorted(branches.items(), key=lambda item: order.index(item[0])))


def branch_of(layers: Sequence[str], reached: Mapping[str, frozenset[str]], contract: Contract, otherwise: str) -> str:
    """The branch of layers that go together. ``reached``: see ``modalities_reaching``; ``otherwise``: the layer that names it where none is known."""
    met = frozenset[str]().union(*(reached.get(name, frozenset()) for name in layers))
    if len(met) == 1:
        return next(iter(met))
    shared = next((name for name in layers if len(reached.get(name, ())) > 1), otherwise)
    name = shared.removeprefix("inner.").partition(".")[0]
    return FUSION if name in contract.modalities else name


def largest_ratios(config: Prune, branches: dict[str, list[ChannelGroup]]) -> dict[str, float]:
    """{branch: the largest share that the recipe lets go}; raises UsageError where it names a branch that is not there."""
    for name in config.branches:
        if name not in branches:
            raise UsageError(
                f"prune.branches: no branch {name!r}{did_you_mean(name, branches)}; there are {', '.join(branches)}"
            )
    return {name: config.branches.get(name, 1.0) for name in branches}


def modalities_reaching(module: nn.Module, contract: Contract) -> dict[str, frozenset[str]]:
    """{layer: the modalities whose change changes what it puts out}, by changing one at a time."""
    torch.manual_seed(0)
    base = noise(contract)
    before = _outputs(module, base)
    reached: dict[str, frozenset[str]] = dict.fromkeys(before, frozenset())
    for name in contract.modalities:
        after = _outputs(module, base | {name: noise(contract)[name]})
        for layer in before:
            if layer in after and not torch.equal(before[layer], after[layer]):
                reached[layer] |= {name}
    return reached


def _outputs(module: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """{layer: what it put out} for the layers that have channels."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> None:
        outputs[name] = value.detach().clone()

    hooks = [
        layer.register_forward_hook(lambda _m, _i, output, name=name: keep(name, output))
        for name, layer in module.named_modules()
        if isinstance(layer, PRUNABLE)
    ]
    try:
        with torch.no_grad():
            module.eval()(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs
