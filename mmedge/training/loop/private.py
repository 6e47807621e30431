"""Differentially private training: each sample's gradient is cut to a norm, their sum gets noise, and the cost is counted.

Abadi et al. 2016, "Deep learning with differential privacy". Opacus (Yousefpour et al. 2021) cuts, adds noise and counts;
each sample's gradient is functorch's, over the whole network at once, so that parameters outside of layers have theirs too.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mmedge.contract import Contract
from mmedge.errors import UsageError, first_line
from mmedge.graph.trace import example
from mmedge.training.loop import processes
from mmedge.training.loop.accounting import Phase, require_opacus
from mmedge.training.loop.batches import Batch, Training, steps_per_epoch

# Bits of what sampling and noise are drawn by; whoever knew them could take the noise off again.
_SECRET = 128


class Private:
    """A private training of a module: draws its batches, takes its steps, and keeps count of what they cost.

    ``optimizer`` is the recipe's, behind Opacus's. ``noise``: in units of ``privacy.clip``.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, training: Training, noise: float) -> None:
        require_opacus("train.privacy")
        from opacus.optimizers import DPOptimizer

        train, usable = training.schedule, training.usable
        assert train.privacy is not None
        self._module, self._training = module, training
        self._secret = secrets.randbits(_SECRET)
        self._batch = min(train.batch_size, len(usable))
        self._trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self._generator = torch.Generator(device=next(iter(self._trained.values())).device)
        self.phase = Phase(noise, self._batch / len(usable), 0)
        self.optimizer = DPOptimizer(
            optimizer,
            noise_multiplier=noise,
            max_grad_norm=train.privacy.clip,
            expected_batch_size=self._batch,
            generator=self._generator,
        )
        self.optimizer.attach_step_hook(self._count)

    def drawn(self, epoch: int) -> Iterator[np.ndarray]:
        """The rows of each step, int64: every usable one by chance alone (Poisson), which the accountant relies on."""
        chance, noise = np.random.SeedSequence([self._secret, epoch]).spawn(2)
        self._generator.manual_seed(int(noise.generate_state(1, np.uint64)[0]))
        rng, usable = np.random.default_rng(chance), self._training.usable
        for _ in range(steps_per_epoch(len(self._training.samples), self._training.schedule)):
            yield usable[rng.random(len(usable)) < self.phase.sample_rate]

    def step(self, objective: Callable[[Any, Batch], Tensor], parts: Iterable[Batch], device: torch.device) -> Tensor:
        """One step on a batch in ``train.accumulate`` parts. Returns its loss over the expected size, a scalar."""
        losses = []
        for number, part in enumerate(parts, 1):
            losses.append(self._loss(objective, part.to(device)))
            self.optimizer.signal_skip_step(do_skip=number < self._training.schedule.accumulate)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return torch.stack(losses).sum() / self._batch

    def _loss(self, objective: Callable[[Any, Batch], Tensor], batch: Batch) -> Tensor:
        """The sum of the samples' losses; the parameters get each one's gradient."""
        count = len(batch.index)
        if not count:
            for weight in self._trained.values():
                weight.grad_sample = weight.new_zeros(0, *weight.shape)  # type: ignore[attr-defined]
            return torch.zeros((), device=self._generator.device)
        each = per_sample(self._trained, count)
        # An objective is the mean over the samples of what each one's loss is alone.
        loss = objective(lambda **inputs: outputs_of_each(self._module, each, inputs), batch) * count
        gradients = torch.autograd.grad(loss, list(each.values()), materialize_grads=True)
        for weight, gradient in zip(self._trained.values(), gradients):
            weight.grad_sample = gradient  # type: ignore[attr-defined]
        return loss.detach()

    def _count(self, _: Any) -> None:
        self.phase = self.phase._replace(steps=self.phase.steps + 1)

    def stored(self) -> str:
        """What an interrupted training goes on with; secret, as long as the stage is at work."""
        return json.dumps({"secret": self._secret, "phase": self.phase})

    def restore(self, found: dict[str, Any]) -> None:
        """Go on from there, with the same batches and the same noise: what is repeated costs nothing more."""
        self._secret, self.phase = found["secret"], Phase(*found["phase"])


def per_sample(trained: dict[str, nn.Parameter], count: int) -> dict[str, Tensor]:
    """{name: [count, *shape]}: the weights once for each sample, without their memory, so that each has a gradient."""
    return {name: weight.detach().expand(count, *weight.shape).requires_grad_() for name, weight in trained.items()}


def outputs_of_each(module: nn.Module, each: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """{head: [batch, W]}, of each sample alone under its own weights."""

    def one(weights: dict[str, Tensor], sample: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = functional_call(module, weights, kwargs={name: x[None] for name, x in sample.items()})
        return {name: output[0] for name, output in outputs.items()}

    found: dict[str, Tensor] = vmap(one, randomness="different")(each, inputs)
    return found


def check_private(module: nn.Module, contract: Contract, where: str) -> None:
    """Raise UsageError where a network mixes samples, or its samples' gradients cannot be taken; and for several processes."""
    if processes.count() > 1:
        raise UsageError("private training is of one process", where=where, todo="leave out --devices")
    for name, layer in module.named_modules():
        if getattr(layer, "track_running_stats", False) or isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise UsageError(
                f"{name.removeprefix('inner.')} ({type(layer).__name__}) mixes the samples of a batch or keeps their"
                " statistics, and privacy is of each sample",
                where=where,
                todo="build the network with torch.nn.GroupNorm or LayerNorm instead",
            )
    trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    mode = module.training
    try:
        outputs = outputs_of_each(module.train(), per_sample(trained, 2), example(contract, 2))
        outputs[next(iter(contract.heads))].sum().backward()
    except Exception as error:  # whatever functorch raises in a network of the user's own
        raise UsageError(
            f"the network cannot be trained privately, one sample's gradient cannot be taken: {first_line(error)}",
            where=where,
            todo="use layers that functorch maps over samples (no recurrent ones, no data-dependent control flow)",
        ) from error
    finally:
        module.train(mode)
