"""The traps in users' models, seen by building and running them: what trains well and breaks in a checkpoint or at batch 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.errors import Fault, MmedgeError, first_line
from mmedge.graph.trace import generated, outputs_of
from mmedge.models import load
from mmedge.models.heads import Wrapped, entries
from mmedge.models.source import source_faults
from mmedge.recipe import Model

_INTERNAL = frozenset(vars(nn.Module()))
# Kinds of ``behaviour``'s faults that would make a run's figures those of something else.
STOPPING = frozenset({"batch-1", "train-mode", "changed-input"})


def traps(section: Model, contract: Contract, factory: Any, where: str) -> list[Fault]:
    """Every trap of a recipe's model that its factory's source shows, or building it and running it a few times.

    ``where`` is the section's name in the recipe; a fault's ``module`` is the submodule's dotted name.
    """
    faults = source_faults(factory) if factory is not None else []
    try:
        torch.manual_seed(0)
        module = load.build(section, contract, factory=factory, fresh=True)
        torch.manual_seed(1)
        again = load.build(section, contract, factory=factory, fresh=True)
    except MmedgeError as error:
        return [*faults, Fault.of(error, "model", module=where)]
    except Exception as error:  # a user's constructor may raise anything
        return [*faults, _raised(error, f"{where}: the factory", where)]
    if section.weights is not None:
        try:
            load.load_weights(module.inner if isinstance(module, Wrapped) else module, section.weights)
        except MmedgeError as error:
            faults.append(Fault.of(error, "checkpoint", module=f"{where}.weights"))
    if section.pretrained:
        try:
            load.build(section, contract, factory=factory)
        except MmedgeError as error:
            faults.append(Fault.of(error, "checkpoint", module=f"{where}.encoders"))
    faults += _unregistered(module, where)
    faults += _not_saved(module, again, where)
    faults += _mode(module, where)
    faults += _slow_pooling(module, where)
    try:
        with torch.no_grad():
            faults += behaviour(module, contract, where)
            faults += _probabilities(module, contract, where)
            faults += _other_outputs(module, contract, where)
            load.check_lengths(module, contract, where)
    except MmedgeError as error:
        faults.append(Fault.of(error, "model", module=where))
    except Exception as error:  # a user's forward may raise anything
        faults.append(forward_failed(error, contract, where))
    return faults


def forward_failed(error: Exception, contract: Contract, where: str) -> Fault:
    """What a forward raised for values such as the data has, with what it was called with."""
    called = [f"{name} {list(x.shape)}" for name, x in generated(contract, 2).items() if name != "present"]
    ids = {name: getattr(spec, "tokens", None) for name, spec in contract.modalities.items() if spec.dtype == "int64"}
    called += [f"ids of {name} from 0 to {tokens - 1}" for name, tokens in ids.items() if tokens]
    return _raised(error, f"{where}: forward", where, f"it is called with {', '.join(called)}; ")


def _raised(error: Exception, what: str, where: str, called: str = "") -> Fault:
    first = first_line(error)
    if any(word in str(error) for word in ("CUDA", "NVIDIA", "cuda")):
        return Fault(
            "error",
            "device",
            f"{what} needs a device that is not here: {first}",
            module=where,
            todo="name no device in the model's code",
        )
    todo = f"{called}--debug shows the traceback of mmedge train"
    return Fault("error", "model", f"{what} fails: {first}", module=where, todo=todo)


def _modules(module: nn.Module, where: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in _own(module):
        yield ".".join(part for part in (where, name.removeprefix("inner").removeprefix(".")) if part), child


def _own(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The submodules by name, without what mmedge wraps a user's in, and without TorchScript."""
    for name, child in module.named_modules():
        if not is_script(child) and not (child is module and isinstance(module, Wrapped)):
            yield name, child


def is_script(module: nn.Module) -> bool:
    """Whether it is TorchScript, which neither takes hooks nor is exported."""
    return isinstance(module, torch.jit.ScriptModule)


def _unregistered(module: nn.Module, where: str) -> list[Fault]:
    """Weights in a plain list, tuple, dict or attribute: absent from ``state_dict``, never trained, never saved."""
    registered = (
        {id(p) for p in module.parameters()} | {id(b) for b in module.buffers()} | {id(m) for m in module.modules()}
    )
    faults = []
    for name, child in _modules(module, where):
        # torch.nn.utils.weight_norm and its like compute an attribute anew before each call.
        computed = {getattr(hook, "name", None) for hook in child._forward_pre_hooks.values()}
        for attribute, value in vars(child).items():
            if attribute in _INTERNAL or attribute in computed:
                continue
            held = [part for part in _flat(value) if id(part) not in registered]
            if held:
                kind = type(value).__name__ if not isinstance(value, Tensor) else "plain tensor"
                faults.append(
                    Fault(
                        "error",
                        "unregistered",
                        f"weights are held in a {kind} and absent from state_dict: they are neither trained nor saved",
                        module=f"{name}.{attribute}",
                        todo="use nn.ModuleList, nn.ModuleDict, nn.ParameterList or register_buffer",
                    )
                )
    return faults


def _flat(value: Any) -> Iterator[nn.Module | Tensor]:
    if isinstance(value, Tensor):
        if value.numel() > 1 or value.requires_grad:
            yield value
    elif isinstance(value, nn.Module):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _flat(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _flat(part)


def _not_saved(module: nn.Module, again: nn.Module, where: str) -> list[Fault]:
    """Buffers that are not saved and that two constructions make differently: a reloaded model would be another."""
    others = dict(again.named_modules())
    faults = []
    for (name, child), (key, _) in zip(_modules(module, where), _own(module)):
        for buffer in child._non_persistent_buffers_set:
            here, there = child._buffers.get(buffer), others[key]._buffers.get(buffer)
            if here is not None and there is not None and not torch.equal(here, there):
                faults.append(
                    Fault(
                        "error",
                        "not-persistent",
                        "the buffer is not saved (persistent=False) and is drawn anew at each construction",
                        module=f"{name}.{buffer}",
                        todo="register it with persistent=True, or compute it without chance",
                    )
                )
    return faults


def _mode(module: nn.Module, where: str) -> list[Fault]:
    module.eval()
    return [
        Fault(
            "error",
            "train-mode",
            "the module stays in training mode after eval(): dropout and batch statistics would go into the export",
            module=name,
            todo="call super().train(mode) in its own train(), and set no self.training",
        )
        for name, child in _modules(module, where)
        if child.training
    ][:5]


def _slow_pooling(module: nn.Module, where: str) -> list[Fault]:
    return [
        Fault(
            "warning",
            "slow-pooling",
            f"adaptive pooling to {child.output_size} exports as some twenty nodes",
            module=name,
            todo="use a fixed AvgPool window, or pool to 1",
        )
        for name, child in _modules(module, where)
        if isinstance(child, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d))
        and child.output_size not in (1, (1,), (1, 1))
    ]


def behaviour(module: nn.Module, contract: Contract, where: str) -> list[Fault]:
    """Runs the module at batch 2 twice, and at batch 1, and names the first submodule whose outputs do not agree."""
    inputs, heads = generated(contract, 2), tuple(contract.heads)
    before: dict[str, Tensor] = {}
    after: dict[str, Tensor] = {}
    torch.manual_seed(2)
    first = _recorded(module, inputs, where, before, heads)
    if changed := [name for name, x in generated(contract, 2).items() if not torch.equal(x, inputs[name])]:
        what = f"forward changes its input {changed[0]!r} in place, and with it what others are shown"
        return [Fault("error", "changed-input", what, module=where, todo="compute a new tensor: x = x.clamp(0), say")]
    torch.manual_seed(3)
    second = _recorded(module, inputs, where, after, heads)
    faults: list[Fault] = []
    wanted = (2, sum(contract.width(head) for head in contract.heads))
    if tuple(first.shape) != wanted:
        faults.append(
            Fault(
                "error",
                "output",
                f"the output of a batch of 2 has shape {list(first.shape)}; it must be {list(wanted)}",
                module=where,
                todo="one row a sample, one column a class",
            )
        )
    if not torch.isfinite(first).all():
        named = next((n for n, x in before.items() if x.is_floating_point() and not torch.isfinite(x).all()), where)
        fault = Fault(
            "error",
            "not-finite",
            "the model gives NaN or infinity for random numbers of mean 0 and deviation 1",
            module=named,
            todo="look for divisions, logarithms, roots or exponentials that can overflow there",
        )
        return [*faults, fault]
    steady = torch.equal(first, second)
    if first.shape == second.shape and not steady:
        pairs = {name: (x, after[name]) for name, x in before.items() if name in after}
        named = next((n for n, (x, y) in pairs.items() if x.shape == y.shape and not torch.equal(x, y)), where)
        faults.append(
            Fault(
                "error",
                "train-mode",
                "the module gives other outputs for the same input in evaluation mode: chance would go into the export",
                module=named,
                todo="use nn.Dropout, or F.dropout(…, training=self.training)",
            )
        )
    alone = _batch_of_one(module, {name: x[:1] for name, x in inputs.items()}, where, before, heads, first, steady)
    return [*faults, *alone]


def _batch_of_one(
    module: nn.Module,
    single: dict[str, Tensor],
    where: str,
    before: dict[str, Tensor],
    heads: Sequence[str],
    first: Tensor,
    steady: bool,
) -> list[Fault]:
    """At most one fault, of a batch of 1: ``first`` and ``before`` are what a batch of 2 gave, twice the same where ``steady``."""
    alone: dict[str, Tensor] = {}
    try:
        one = _recorded(module, single, where, alone, heads)
    except MmedgeError:
        raise
    except Exception as error:  # a user's forward may raise anything
        what, named = f"the model fails on a batch of 1: {first_line(error)}", _lost_batch(before, alone)
        todo = "look for .squeeze() without an axis, or statistics over the batch"
        return [Fault("error", "batch-1", what, module=named or _reached(module, single, where), todo=todo)]
    if one.shape != (1, *first.shape[1:]):
        what, named = "the batch axis is lost at batch 1", _lost_batch(before, alone)
        return [
            Fault("error", "batch-1", what, module=named or where, todo="name the axis of squeeze(), as in squeeze(-1)")
        ]
    if steady and not _alike(one, first):
        what = "a sample's output depends on the rest of its batch"
        named = next((name for name, pair in before.items() if name in alone and not _alike(alone[name], pair)), where)
        return [Fault("error", "batch-1", what, module=named, todo="compute nothing over the batch axis in forward")]
    return []


def _alike(alone: Tensor, pair: Tensor) -> bool:
    """Whether the first row of a batch of 2 is, but for rounding, what a batch of 1 gives; true of what has no rows."""
    if alone.shape != (1, *pair.shape[1:]) or not pair.is_floating_point():
        return True
    scale = max(1.0, float(pair.abs().max()) if pair.numel() else 0.0)
    return bool(torch.allclose(alone[0], pair[0], rtol=0, atol=1e-3 * scale))


def _probabilities(module: nn.Module, contract: Contract, where: str) -> list[Fault]:
    """A warning of a last softmax."""
    if not load.probabilities(module(**generated(contract, 2)), contract):
        return []
    return [
        Fault(
            "warning",
            "probabilities",
            "the outputs are probabilities, and losses, teachers and temperatures take them for logits",
            module=where,
            todo="leave out the last softmax",
        )
    ]


def _other_outputs(module: nn.Module, contract: Contract, where: str) -> list[Fault]:
    """What a user's forward gives beside the heads: what of it no graph can hold, and what nothing teaches."""
    if not isinstance(module, Wrapped):
        return []
    results: dict[str, object] = {}
    hook = module.inner.register_forward_hook(lambda _module, _inputs, result: results.update(entries(result)))
    kept, left = outputs_of(module, contract)
    hook.remove()
    if not module.outputs:
        others = {name: value for name, value in results.items() if not isinstance(value, Tensor) and value is not None}
        left |= {name: f"it is a {type(value).__name__}, not a tensor" for name, value in others.items()}
    faults = [
        Fault(
            "warning",
            "unused-output",
            f"forward also gives {name!r}, which graphs and bundles will not hold: {why}",
            module=where,
            todo="nothing, where only training needs it; model.outputs names those to keep, and ends this warning",
        )
        for name, why in left.items()
        if name not in contract.heads
    ]
    others_kept = [name for name in kept if name not in contract.heads]
    if others_kept and not module.outputs:
        faults.append(
            Fault(
                "warning",
                "other-outputs",
                f"graphs will also hold {', '.join(others_kept)}, which is verified and no loss teaches; each costs time at every run",
                module=where,
                todo=f"keep those that an app needs: model.outputs: [{', '.join(kept)}], the heads' first",
            )
        )
    return faults


def _lost_batch(before: dict[str, Tensor], alone: dict[str, Tensor]) -> str | None:
    """The first submodule whose output had the batch's axis at batch 2 (``before``) and has it not at batch 1 (``alone``)."""
    for name, pair in before.items():
        if name in alone and pair.dim() and pair.shape[0] == 2:
            single = alone[name]
            if single.dim() != pair.dim() or single.shape[0] != 1:
                return name
    return None


def _recorded(
    module: nn.Module, inputs: dict[str, Tensor], where: str, seen: dict[str, Tensor], heads: Sequence[str]
) -> Tensor:
    """The output, of several heads one beside the other; ``seen`` gets each submodule's by name, in the order in which they finished: the innermost first."""

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:  # what a hook returns would replace the output
            if isinstance(output, Tensor) and name not in seen:
                seen[name] = output.detach().clone()

        return hook

    hooks = [child.register_forward_hook(keep(name)) for name, child in _modules(module, where)]
    try:
        result = module(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return result[heads[0]] if len(heads) == 1 else torch.cat([result[head] for head in heads], dim=-1)


def _reached(module: nn.Module, inputs: dict[str, Tensor], where: str) -> str:
    """The innermost submodule that had begun and not ended when the call failed."""
    stack: list[str] = []
    hooks = []

    def left(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        stack.pop()

    for name, child in _modules(module, where):
        hooks.append(child.register_forward_pre_hook(lambda _m, _i, name=name: stack.append(name)))
        hooks.append(child.register_forward_hook(left))
    try:
        module(**inputs)
    except Exception:  # the one that is being located
        return stack[-1] if stack else where
    finally:
        for hook in hooks:
            hook.remove()
    return where
