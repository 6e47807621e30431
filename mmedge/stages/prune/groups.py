"""What can be removed: groups of channels and heads that go together, and which of them matter least."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError, did_you_mean, first_line
from mmedge.graph.trace import example
from mmedge.models import load
from mmedge.models.attention import SplitAttention, split_attention
from mmedge.models.dependencies import dependencies
from mmedge.recipe import Prune
from mmedge.stages.prune.heads import Heads, OwnAttention

T = TypeVar("T")

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)
# Operations that mix channels of one tensor by their place: an attention of the model's own, whose heads are not known.
_MIXING = re.compile(r"ScaledDotProduct|Softmax|Bmm", re.IGNORECASE)
_FAILURES = (IndexError, RuntimeError, KeyError, AssertionError, ValueError, AttributeError, TypeError)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are removed together in all ``layers``, told by the layer ``root`` whose outputs they are.

    ``units``: what goes at once (a channel, a head, one channel of each norm group), the least important first.
    ``counts``: (module, attribute, how much of it a unit is), the numbers that a forward of the user's own keeps of
    them.
    """

    root: str
    layers: tuple[str, ...]
    units: tuple[tuple[int, ...], ...]
    counts: tuple[tuple[str, str, int], ...] = ()

    def keeps(self, ratio: float, round_to: int) -> int:
        """How many units stay where the share ``ratio`` is to go: to the nearest multiple of ``round_to`` channels, never none."""
        step = max(1, round_to // len(self.units[0]))
        count = len(self.units)
        if ratio == 0 or count <= step:
            return count
        return min(count, max(step, step * int(count * (1 - ratio) / step + 0.5)))


def groups_of(module: nn.Module, contract: Contract, config: Prune) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The prunable groups of ``module``, and {layer: why} of those that are not.

    With ``taylor``, the parameters' gradients must be there. Raises MmedgeError where nothing can be pruned.
    """
    ignored = _ignored(module, contract, config)
    try:
        graph = dependencies(module, contract)
        layers = dict(module.named_modules())
        found = list(graph.get_all_groups(ignored_layers=[layers[name] for name in ignored]))
        names = {layer: name for name, layer in layers.items()}
        importance = importance_of(config, module)
        own = OwnAttention(module, contract)
        groups, left = [], {}
        for members in found:
            root = names[members[0].dep.target.module]
            if any(is_parametrized(item.dep.target.module) for item in members):
                left[root] = "or what reads it computes its weights (weight_norm, spectral_norm)"
                continue
            heads = None
            if any(_MIXING.search(str(item.dep.target.module)) for item in members) and not _heads(
                members, names, layers
            ):
                heads = own.of(root, members, graph, names)
                if heads is None:
                    left[root] = "in an attention of the model's own, whose heads are not known"
                    continue
            try:
                scores = importance(members)
                if scores is None:
                    left[root] = "has no batch norm" if config.importance == "bn" else "has no weights"
                else:
                    groups.append(_group(root, members, scores, graph, names, layers, heads))
            except _FAILURES as error:  # a group whose channels its dependency graph does not count right
                left[root] = f"cannot be narrowed ({_reason(error)})"
        groups, broken = _working(module, contract, groups)
    except _FAILURES as error:
        # A network that its dependency graph cannot trace shows only so.
        raise cannot_prune(_reason(error)) from error
    left |= broken
    if not groups:
        reasons = "; ".join(f"{name} {why}" for name, why in list(left.items())[:4])
        raise cannot_prune(reasons or "no layer has channels that could go")
    return groups, left


def cut(module: nn.Module, contract: Contract, groups: list[ChannelGroup], keep: Mapping[str, int]) -> list[Any]:
    """Remove the least important units of each group in place, down to ``keep[root]``; returns the pruning history."""
    graph = dependencies(module, contract)
    layers = dict(module.named_modules())
    counted: list[Any] = []
    for group in groups:
        gone = len(group.units) - keep[group.root]
        if gone > 0:
            root = layers[group.root]
            channels = sorted(channel for unit in group.units[:gone] for channel in unit)
            graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, channels).prune()
            counts = [[load.COUNT, *place, each * keep[group.root]] for *place, each in group.counts]
            load.set_counts(module, counts)
            counted += counts
    return [*graph.pruning_history(), *counted]


def take_apart(module: nn.Module) -> list[Any]:
    """Make the heads of every ``nn.MultiheadAttention`` prunable, in place; returns the history of it."""
    return [[load.SPLIT, name] for name in split_attention(module)]


def cannot_prune(reason: str) -> MmedgeError:
    return MmedgeError(
        f"torch-pruning cannot prune this model: {reason}",
        where="prune",
        todo="put a linear layer or a pooling between flatten and concatenation, name layers in prune.ignore, or leave out prune",
    )


def _group(
    root: str, members: Any, scores: Tensor, graph: Any, names: Mapping[Any, str], layers: Any, heads: Heads | None
) -> ChannelGroup:
    outputs = tuple(
        names[item.dep.target.module]
        for item in members
        if item.dep.target.module in names and graph.is_out_channel_pruning_fn(item.dep.handler)
    )
    channels = torch.arange(len(scores))
    head_dim, parts = _heads(members, names, layers), _parts(members)
    # One channel of each part goes at once, since the parts of a norm or a grouped convolution stay of one size.
    units = channels.reshape(-1, head_dim) if head_dim else channels.reshape(parts, -1).T
    if heads is not None:
        units = heads.units
    order = torch.argsort(scores.detach().cpu().float()[units].mean(dim=1), stable=True)
    ranked = tuple(tuple(unit) for unit in units[order].tolist())
    return ChannelGroup(root, tuple(dict.fromkeys(outputs)), ranked, heads.counts if heads is not None else ())


def _heads(members: Any, names: Mapping[Any, str], layers: Mapping[str, nn.Module]) -> int:
    """The width of a head where the group is that of an attention's heads; 0 where it is not."""
    for item in members:
        parent, _, own = names.get(item.dep.target.module, "").rpartition(".")
        owner = layers.get(parent)
        if isinstance(owner, SplitAttention) and own in ("q_proj", "k_proj", "v_proj") and _is_output(item):
            return owner.head_dim
    return 0


def _is_output(item: Any) -> bool:
    return bool(item.dep.handler.__name__ == "prune_out_channels")


def _parts(members: Any) -> int:
    """The number of parts of equal size that the channels fall into: norm groups, groups of a convolution."""
    parts = 1
    for item in members:
        layer = item.dep.target.module
        if isinstance(layer, nn.GroupNorm):
            parts = max(parts, layer.num_groups)
        elif isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.groups != layer.out_channels:
            parts = max(parts, layer.groups)
    return parts


def _working(
    module: nn.Module, contract: Contract, groups: list[ChannelGroup]
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Those groups without half of whose units the model still runs, and why the others are left."""
    halved = {group.root: -(-len(group.units) // 2) for group in groups}
    return working_together(module, contract, groups, halved)


def working_together(
    module: nn.Module, contract: Contract, groups: list[ChannelGroup], keep: Mapping[str, int]
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The groups that can be narrowed to ``keep`` so that the model still runs, and {root: why} of the others.

    All at once where that works; else half of them, and of the other half those that work beside it.
    """
    working, broken = together(
        groups, lambda tried: fault_of(module, contract, lambda m: cut(m, contract, tried, keep))
    )
    return working, {group.root: f"cannot be narrowed ({why})" for group, why in broken}


def together(found: Sequence[T], fault: Callable[[list[T]], str | None]) -> tuple[list[T], list[tuple[T, str]]]:
    """(Those of ``found`` that go together without a ``fault``, the others with theirs)."""
    left: list[tuple[T, str]] = []

    def added(working: list[T], more: list[T]) -> list[T]:
        why = fault([*working, *more]) if more else None
        if why is None:
            return [*working, *more]
        if len(more) == 1:
            left.append((more[0], why))
            return working
        return added(added(working, more[: len(more) // 2]), more[len(more) // 2 :])

    return added([], list(found)), left


def fault_of(module: nn.Module, contract: Contract, change: Callable[[nn.Module], Any]) -> str | None:
    """What goes wrong with a copy of ``module`` after ``change``; None where nothing does."""
    trial = copy.deepcopy(module)
    try:
        change(trial)
        with torch.no_grad():
            # What writes texts must do so still, step by step, and not only be led through them.
            for learning in (True, False) if contract.written else (False,):
                before, after = (each.eval()(**example(contract, learning=learning)) for each in (module, trial))
    except Exception as error:  # torch-pruning runs into whatever its guesses break, and so does a user's forward
        return _reason(error)
    changed = [name for name, x in before.items() if x.shape != after[name].shape]
    return f"the output {changed[0]!r} would be of another shape" if changed else None


def _reason(error: BaseException) -> str:
    return (
        first_line(error)
        if isinstance(error, (RuntimeError, ValueError))
        else f"{type(error).__name__}: {first_line(error)}"
    )


def importance_of(config: Prune, module: nn.Module) -> Any:
    """torch-pruning's importance of a group's channels: group -> float [channels], or None where it has none.

    Raises UsageError where the module has nothing that ``prune.importance`` goes by.
    """
    from torch_pruning.pruner import importance

    match config.importance:
        case "l1":
            return importance.GroupMagnitudeImportance(p=1)
        case "l2":
            return importance.GroupMagnitudeImportance(p=2)
        case "taylor":
            return importance.GroupTaylorImportance()
        case "random":
            return importance.RandomImportance()
    if not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules()):
        raise UsageError(
            "importance 'bn' ranks channels by the scale of their batch norm, and the model has none",
            where="prune.importance",
            todo="use l2 or taylor",
        )
    return importance.BNScaleImportance()


def _prunable(module: nn.Module) -> dict[str, nn.Module]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, PRUNABLE)}


def ignorable(module: nn.Module) -> dict[str, str]:
    """{name that ``prune.ignore`` may say: the layer's}, also without the name of what wraps a user's module."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, (*PRUNABLE, nn.Embedding))}
    return {name.removeprefix("inner."): name for name in layers} | {name: name for name in layers}


def left_alone(module: nn.Module, ignore: Sequence[str]) -> set[str]:
    """The layers that ``prune.ignore`` names, by their own names."""
    known = ignorable(module)
    return {known[name] for name in ignore if name in known}


def _ignored(module: nn.Module, contract: Contract, config: Prune) -> list[str]:
    """The layers that stay as they are: those that the recipe names, and the last ones of the heads' widths."""
    layers, known = _prunable(module), ignorable(module)
    for name in config.ignore:
        if name not in known:
            raise UsageError(
                f"prune.ignore: no layer {name!r}{did_you_mean(name, known)}; there are "
                + ", ".join(layer.removeprefix("inner.") for layer in layers)
            )
    widths = Counter(contract.width(name) for name, head in contract.heads.items() if not head.towers)
    for head in contract.heads.values():
        widths[head.dimensions] += len(head.towers)
    order: dict[int, list[str]] = {width: [] for width in widths}
    hooks = [
        layer.register_forward_hook(
            lambda _m, _i, output, name=name: order[_width(output)].append(name) if _width(output) in order else None
        )
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        module.eval()(**example(contract, learning=True))
    for hook in hooks:
        hook.remove()
    last = [name for width, layers_of in order.items() for name in layers_of[-widths[width] :]]
    vocabularies = {head.decoding.vocabulary for head in contract.heads.values() if head.decoding}
    last += [name for name, layer in layers.items() if getattr(layer, "out_features", None) in vocabularies]
    return [*(known.get(name, name) for name in config.ignore), *last]


def _width(output: Tensor) -> int:
    return output.shape[-1] if output.dim() < 3 else output.shape[1]
