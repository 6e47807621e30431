"""What is tried with a network before hours are spent on it: that it learns, and that its weights are all that it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError, first_line
from mmedge.graph.trace import example, generated

_BATCH = 4
# Of what a network gives, over the largest: the same weights in the same code give the same but for the order of sums.
_SAME = 1e-4


def check_learns(module: nn.Module, contract: Contract, where: str) -> None:
    """Run the network as training does, on random inputs, forward and back; no weight is changed.

    Raises UsageError at the recipe's section ``where`` for what would end training at its first step.
    """
    named = dict(module.named_parameters())
    if not any(weight.requires_grad for weight in named.values()):
        raise UsageError(
            "no weight of the network can be trained: all have requires_grad False",
            where=where,
            todo="set requires_grad on those that are to learn",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module.train()
        try:
            _backward(module, contract, where)
            odd = [name for name, weight in named.items() if weight.grad is not None and weight.grad.is_sparse]
        finally:
            module.zero_grad(set_to_none=True)
            module.eval()
    if odd:
        raise UsageError(
            f"the gradient of {odd[0].removeprefix('inner.')} is sparse, which clipping and AdamW do not take",
            where=where,
            todo="build its layer with sparse=False",
        )


def _backward(module: nn.Module, contract: Contract, where: str) -> None:
    with torch.enable_grad():
        try:
            outputs = module(**example(contract, _BATCH, learning=True) | generated(contract, _BATCH))
        except Exception as error:  # a user's forward may raise anything
            what = error.what if isinstance(error, MmedgeError) else first_line(error)
            raise UsageError(
                f"the network fails in training mode, where it does not in evaluation mode: {what}",
                where=where,
                todo="let forward give the same outputs by the same names in both modes",
            ) from error
        for head in contract.heads:
            shape, wanted = tuple(outputs[head].shape), (_BATCH, contract.width(head))
            if shape != wanted and head not in contract.written:  # what writes gives logits a token in training
                raise UsageError(
                    f"in training mode the output {head!r} has shape {list(shape)}, not {list(wanted)} as in evaluation mode",
                    where=where,
                    todo="let forward give the same outputs in both modes",
                )
        loss = torch.stack([outputs[head].float().square().mean() for head in contract.heads]).sum()
        if not loss.requires_grad:
            raise UsageError(
                "the network's outputs do not depend on its weights by anything that has a gradient",
                where=where,
                todo="look for torch.no_grad(), .detach(), argmax or rounding between the weights and the outputs",
            )
        try:
            loss.backward()
        except RuntimeError as error:
            raise UsageError(
                f"no gradient can be computed: {first_line(error)}",
                where=where,
                todo="look for operations in place (x += …, x.mul_(…)) on what a later gradient needs",
            ) from error


def check_rebuilt(module: nn.Module, again: nn.Module, contract: Contract, where: str) -> None:
    """Hold a network against one that was built anew and given its weights.

    ``again`` first sees other inputs: what a network remembers from its first call shows. Raises UsageError where the
    two differ, as every stage after the first would go on with another network.
    """
    module.eval(), again.eval()
    inputs = generated(contract, 2)
    with torch.no_grad():
        again(**generated(contract, 2, seed=1))
        first, second = module(**inputs), again(**inputs)
    for head in contract.heads:
        if not _alike(first[head], second[head]):
            raise UsageError(
                "built anew with the same weights, the network gives other outputs: it holds numbers that are not saved",
                where=where,
                todo="register_buffer what is drawn by chance when it is built, and keep nothing from one call to the next",
            )


def _alike(first: Tensor, second: Tensor) -> bool:
    scale = max(1.0, float(first.abs().max()) if first.numel() else 0.0)
    return first.shape == second.shape and torch.allclose(
        first.float(), second.float(), rtol=0, atol=_SAME * scale, equal_nan=True
    )
