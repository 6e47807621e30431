"""THE one training loop: teacher, distillation, its controls and recovery after pruning all run through ``fit``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.artifact import replacing
from mmedge.data.samples import Samples
from mmedge.errors import MmedgeError
from mmedge.measure.quality import balanced, predict_module, score, subset_scores
from mmedge.progress import Progress
from mmedge.recipe import Train
from mmedge.spec import Contract
from mmedge.training.batches import Batch, batches, steps_per_epoch
from mmedge.training.device import training_device

Objective = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Fitted:
    """What a fit ended with. ``history``: one record an epoch; ``notes``: what a reader of the report must know."""

    history: list[dict[str, float]]
    best_epoch: int
    notes: tuple[str, ...]


def fit(
    module: nn.Module,
    objective: Objective,
    contract: Contract,
    train_samples: Samples,
    validation: Samples,
    train: Train,
    *,
    seed: int,
    view_seed: int,
    usable: np.ndarray,
    state: Path,
    task: str,
    progress: Progress,
) -> Fitted:
    """Train ``module`` in place and leave it at its best epoch by validation, in evaluation mode.

    ``objective(module, batch)`` is the loss, a scalar; where it is itself an ``nn.Module`` (a projection, say) its
    parameters are trained along. ``usable``: int64 rows that may be drawn. ``state`` is written at each epoch's end:
    the same call after a kill goes on from there and ends with the same weights, since every random choice is a
    function of ``seed`` and the epoch. Raises MmedgeError where the loss is not finite before a first good epoch.
    """
    device = training_device()
    parts = nn.ModuleList([module, objective] if isinstance(objective, nn.Module) else [module])
    parts.to(device)
    parameters = [p for p in parts.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(_decay_groups(parts, train.weight_decay), lr=train.learning_rate)
    steps = steps_per_epoch(train_samples, train)
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    notes: tuple[str, ...] = ()
    if state.is_file():
        history, best = _restore(state, parts, optimizer)
    for epoch in range(len(history), train.epochs):
        torch.manual_seed(_mixed(seed, epoch))  # dropout's generator
        module.train()
        started, total = time.monotonic(), 0.0
        for step, batch in enumerate(
            batches(train_samples, train, seed=seed, view_seed=view_seed, epoch=epoch, usable=usable)
        ):
            _set_rate(optimizer, train.learning_rate * _rate(epoch * steps + step, steps * train.epochs, train.warmup))
            loss = objective(module, batch.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, train.gradient_clip)
            optimizer.step()
            total += loss.item()
            if step % 10 == 0:
                shown = f"epoch {epoch + 1}/{train.epochs}" + (
                    f", validation {history[-1]['quality']:.3f}" if history else ""
                )
                progress.step(task, epoch * steps + step, train.epochs * steps, shown)
        # The last step's loss may be finite, and what the weights after it answer not.
        figures = _validate(module, contract, validation) if math.isfinite(total) else None
        if figures is None:
            if not best:
                raise MmedgeError(
                    "training diverged: the loss or the outputs are not finite",
                    where=f"{task}, epoch {epoch + 1}",
                    todo="lower train.learning_rate",
                )
            notes = (f"training diverged in epoch {epoch + 1}; the best epoch before it is kept",)
            break
        record = {
            "epoch": epoch + 1,
            "loss": total / steps,
            "seconds": time.monotonic() - started,
            **figures,
        }
        if not history or record["selection"] >= max(earlier["selection"] for earlier in history):
            best = {name: value.detach().clone() for name, value in module.state_dict().items()}
        history.append(record)
        _store(state, parts, optimizer, best, history)
    progress.step(
        task, train.epochs * steps, train.epochs * steps, f"validation {max(h['quality'] for h in history):.3f}"
    )
    module.load_state_dict(best)
    module.to("cpu").eval()
    selected = max(range(len(history)), key=lambda index: (history[index]["selection"], index))
    return Fitted(history, selected + 1, notes)


def _validate(module: nn.Module, contract: Contract, validation: Samples) -> dict[str, float] | None:
    """Validation figures of one epoch; None where the outputs are not finite.

    ``selection`` weighs all modalities present as much as the mean of the subsets, so that the best checkpoint is not one
    that forgot a modality.
    """
    module.eval()
    finite = True

    def predict(present: np.ndarray) -> np.ndarray:
        nonlocal finite
        output = predict_module(module, contract, validation, present)
        finite = finite and bool(np.isfinite(output).all())
        return output

    scores = subset_scores(contract, validation, predict)
    quality = scores.get("+".join(contract.modalities))
    if quality is None:  # no sample has every modality
        quality = score(contract, predict(validation.present), validation.targets)
    return {"quality": quality, "selection": balanced(quality, scores.values())} if finite else None


def _decay_groups(parts: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay is for matrices and kernels; biases, norms and learned vectors are left alone."""
    trained = [p for p in parts.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _rate(step: int, total: int, warmup: float) -> float:
    """Linear warm-up over the first share of the steps, then a cosine to zero (Loshchilov & Hutter 2017)."""
    rising = max(1, round(total * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _mixed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _store(
    path: Path,
    parts: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    history: list[dict[str, float]],
) -> None:
    from safetensors.torch import save_file

    tensors = {f"parts.{name}": value for name, value in parts.state_dict().items()} | {
        f"best.{name}": value for name, value in best.items()
    }
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    with replacing(path) as temporary:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            temporary,
            {"history": json.dumps(history)},
        )


def _restore(
    path: Path, parts: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (safe_open is no dict)
        history = json.loads(stored.metadata()["history"])
    taken = {
        prefix: {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        for prefix in ("parts.", "best.", "optimizer.")
    }
    parts.load_state_dict(taken["parts."])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in taken["optimizer."].items():
        index, _, moment = name.partition(".")
        moments.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return history, taken["best."]
