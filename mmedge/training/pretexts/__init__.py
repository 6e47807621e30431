"""What a network learns without labels before it learns with them: one file a kind, and the one table of them.

A pretext is an ``nn.Module`` that is trained along with the network and left behind: ``forward(module, batch)`` is its loss.
Only the network's encoders are asked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.recipe import Model, Pretrain, Train
from mmedge.training.context import Context
from mmedge.training.loop import processes
from mmedge.training.loop.batches import Batch, Training
from mmedge.training.loop.fit import Fitted, fit
from mmedge.training.pretexts import adversarial, contrastive, masked

PRETEXTS: dict[str, Callable[[nn.ModuleDict, Contract, Pretrain, Model], nn.Module]] = {
    "contrastive": contrastive.Contrastive,
    "masked": masked.Masked,
    "adversarial": adversarial.Adversarial,
}


class _Pretext(nn.Module):
    """A pretext with figures of its own, the loss on validation, by which ``fit`` chooses the epoch that is kept."""

    def __init__(self, learned: nn.Module, module: nn.Module) -> None:
        super().__init__()
        self.learned = learned
        self._module = [module]  # not a part: it is trained as itself
        self.of_inputs = getattr(learned, "of_inputs", False)

    def forward(self, call: object, batch: Batch) -> Tensor:
        loss: Tensor = self.learned(self._module[0], batch)
        return loss

    def figures(self, module: nn.Module, training: Training) -> dict[str, float] | None:
        """The negative loss of the validation split, by the same draws at each epoch; None where it is not finite."""
        if getattr(self.learned, "last", False):
            return {"quality": 0.0, "selection": 0.0}
        was, total, count = torch.random.get_rng_state(), 0.0, 0
        samples, size = training.validation, training.schedule.batch_size
        device = next(module.parameters()).device
        module.eval()
        self.eval()
        torch.manual_seed(0)
        with torch.no_grad():
            for start in range(0, len(samples), size):
                index = np.arange(start, min(start + size, len(samples)))
                if len(index) < 2 <= len(samples):
                    continue
                inputs = {name: torch.from_numpy(np.ascontiguousarray(x[index])) for name, x in samples.inputs.items()}
                batch = Batch(index, 0, inputs, torch.from_numpy(samples.present[index]), {}).to(device)
                total, count = total + len(index) * float(self.learned(module, batch)), count + len(index)
        torch.random.set_rng_state(was)
        self.train()
        figure = -total / max(1, count)
        return {"quality": figure, "selection": figure} if np.isfinite(figure) else None


def pretrained(
    module: nn.Module, section: Pretrain, training: Training, model: Model, state: Path, context: Context
) -> Fitted:
    """Train the encoders of ``module`` in place without labels; the state's file is kept, so that the next call only reads it.

    ``training``: what is trained afterwards, whose samples and batches these are. Networks that have no encoder a modality, and
    modalities that nothing can be learned of, are refused by the recipe (``pretraining_faults``).
    """
    encoders = module.encoders
    assert isinstance(encoders, nn.ModuleDict)
    if processes.count() > 1:  # which wait for gradients of all weights, and those of the heads have none here
        raise UsageError("several processes cannot pretrain", where=f"{context.stage}.pretrain", todo="train in one")
    torch.manual_seed(training.seed)
    learned = PRETEXTS[section.kind](encoders, training.contract, section, model)
    schedule = training.schedule
    changes = {
        "epochs": section.epochs,
        "learning_rate": section.learning_rate,
        "batch_size": section.batch_size or schedule.batch_size,
        "modality_dropout": 0.0,
        "mix": None,
        "sampling": "uniform",
        "class_weights": "none",
        "precision": "fp32",
        "early_stopping": None,
        "compile": False,
    }
    return fit(
        module,
        _Pretext(learned, module),
        Training(
            training.contract,
            training.samples,
            training.validation,
            schedule.model_copy(update=changes),
            np.arange(len(training.samples)),
            training.seed,
            training.view_seed,
            reading=training.reading,
        ),
        state=state,
        task=f"pretraining, {section.kind}",
        progress=context.progress,
        log=context.log(state.stem),
    )


def from_nothing(train: Train, section: Pretrain) -> Train:
    """The schedule of the control: as many passes as with ``section`` before it, over the same views."""
    views = min(train.views, train.epochs)
    return train.model_copy(update={"epochs": train.epochs + section.epochs, "views": views})
