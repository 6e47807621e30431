"""THE one training loop: teacher, distillation, its controls and recovery after pruning all run through ``fit``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.errors import MmedgeError, UsageError
from mmedge.measure.quality import balanced, placing, predict_module, score, subset_scores
from mmedge.models.lora import merge
from mmedge.progress import Progress
from mmedge.recipe import Train
from mmedge.tracking import Log
from mmedge.training.loop import batchnorm, processes
from mmedge.training.loop.accounting import Phase, noise_for
from mmedge.training.loop.batches import Batch, Training, steps_per_epoch
from mmedge.training.loop.checkpointing import checkpointed
from mmedge.training.loop.device import training_device
from mmedge.training.loop.features import in_place_of_inputs
from mmedge.training.loop.feeding import Feed
from mmedge.training.loop.frozen_parts import computed_once
from mmedge.training.loop.optimizer import Average, optimizer_of, set_rate
from mmedge.training.loop.precision import caller, channels_last, scaler_of
from mmedge.training.loop.private import Private, check_private
from mmedge.training.loop.sharding import NOTHING_SHARED, clip, mean_gradients, sharded, shares, whole
from mmedge.training.loop.stacking import stack
from mmedge.training.loop.state import State
from mmedge.training.loop.transfer import Transfer, idle, transfer_of

# Where the module's parameters are among all that is trained.
_MODULE = "0."
# Called with the module (or what runs it in another precision, or compiled) and a batch; a scalar.
Objective = Callable[[Any, Batch], Tensor]
# (module, training) -> an epoch's "quality" and "selection", the greater the better; None where outputs are not finite.
Judge = Callable[[nn.Module, Training], "dict[str, float] | None"]


@dataclass(frozen=True)
class Fitted:
    """What a fit ended with.

    ``history``: one record an epoch, of which ``waiting`` is the share of its training in which the device waited for
    data; ``notes``: what a reader of the report must know; ``diverged``: it ended with the best epoch before its loss was
    no number; ``private``: what a private training spent.
    """

    history: list[dict[str, float]]
    best_epoch: int
    notes: tuple[str, ...]
    diverged: bool = False
    private: Phase | None = None


def joined(fits: Sequence[Fitted]) -> Fitted:
    """What several networks, trained one after another, ended with as one; their epochs are counted on."""
    if len(fits) == 1:
        return fits[0]
    history = [record for one in fits for record in one.history]
    history = [{**record, "epoch": number} for number, record in enumerate(history, 1)]
    notes = tuple(f"network {number}: {note}" for number, one in enumerate(fits, 1) for note in one.notes)
    return Fitted(history, _best(history), notes, any(one.diverged for one in fits))


def fit(
    module: nn.Module,
    objective: Objective,
    training: Training,
    *,
    state: Path,
    task: str,
    progress: Progress,
    log: Log = lambda record: None,
) -> Fitted:
    """Train ``module`` in place and leave it at its best epoch by validation, in evaluation mode.

    ``objective(module, batch)`` is the loss, a scalar; where it is itself an ``nn.Module`` (a projection, say) its
    parameters are trained along, and one that has ``figures``, a ``Judge``, chooses the best epoch by them. Where several processes train, each works on its part of every batch and all leave
    with the same weights; the main one validates and writes. ``state`` is
    written at each epoch's end: the same call after a kill goes on from there and ends with the same weights, since
    every random choice is a function of the seed and the epoch. ``log`` gets each epoch's figures, of the main process. Raises MmedgeError where the loss is not finite before a first good
    epoch, UsageError where batch norm would get a batch of one, and MissingDependency where the machine lacks what
    ``train`` asks for. With ``train.privacy`` the weights are differentially private (``loop/private.py``); then also
    UsageError where the budget or the network does not allow it.
    """
    train = training.schedule
    transfer = transfer_of(module, train)
    held = sharded(deepcopy(module)) if shares(training) else module
    run, learner = _prepared(held, objective, training, transfer)
    run.restore(state)
    total = steps_per_epoch(len(training.samples), train) * train.epochs
    notes = [*idle(module, train), *(NOTHING_SHARED if training.sharded and held is module else ())]
    judge: Judge = getattr(objective, "figures", _validate)
    end: _End | None = None
    transfer.begin(held, 0)
    with ExitStack() as within:
        features = in_place_of_inputs(held, objective, training, state.with_suffix(".features"), progress)
        over = len(run.history) >= train.epochs or _stalled(run.history, train.early_stopping)
        # Whoever only reads its state again, as students that share their pretraining do, runs nothing for it.
        seen, of_frozen = (training, []) if over else within.enter_context(features)
        feed = within.enter_context(closing(Feed(seen, training_device())))
        within.enter_context(batchnorm.synchronised(run.parts))
        within.enter_context(checkpointed(held, asked=train.checkpointing))
        work = _Work(run, learner, held, seen, feed, state, task, progress, log, judge)
        notes += of_frozen
        for first, last in transfer.phases(train.epochs):
            if end or len(run.history) >= last:
                continue
            transfer.begin(held, first)
            with computed_once(held, state.with_suffix(f".frozen{processes.rank()}"), _inputs(training)) as of_frozen:
                end = _phase(work, last)
            notes += of_frozen
    best = _best(run.history)
    progress.step(task, total, total, f"validation {run.history[best - 1]['quality']:.3f}, epoch {best}")
    transfer.end(held)
    _leave_at(run.best, module)
    if judge is _validate:  # what is judged otherwise is no training of the heads
        notes += processes.of_main(lambda: stack(module, training.contract, training.validation, train))
    processes.same(module.state_dict())
    spent = run.private.phase if run.private else None
    told = dict.fromkeys([*(end.notes if end else ()), *notes, *feed.advice()])
    return Fitted(run.history, best, tuple(told), bool(end and end.diverged), spent)


@dataclass(frozen=True)
class _Work:
    """What the epochs of a fit work on."""

    run: State
    learner: Any
    module: nn.Module
    training: Training
    feed: Feed
    state: Path
    task: str
    progress: Progress
    log: Log
    judge: Judge


@dataclass(frozen=True)
class _End:
    """Why a training ended before its last epoch."""

    notes: tuple[str, ...]
    diverged: bool = False


def _phase(work: _Work, last: int) -> _End | None:
    """Train from where the history ends to the epoch ``last``; why it ended before that, where it did."""
    run, module, train = work.run, work.module, work.training.schedule
    for epoch in range(len(run.history), last):
        if _stalled(run.history, train.early_stopping):
            return _End(
                (f"stopped after epoch {epoch} of {train.epochs}: none was better than epoch {_best(run.history)}",)
            )
        started = time.monotonic()
        module.train()
        each, rate = _epoch(work, epoch)
        loss, waited = float(each.mean()), work.feed.share(time.monotonic() - started)
        # The last step's loss may be finite, and what the weights after it give not.
        figures = _validated(work) if math.isfinite(loss) else None
        if figures is None:
            if not run.best:
                raise _diverged(work.task, epoch, each)
            return _End((f"training diverged in epoch {epoch + 1}; the best epoch before it is kept",), diverged=True)
        seconds = time.monotonic() - started
        record = {"epoch": epoch + 1, "loss": loss, "learning_rate": rate, "seconds": seconds, "waiting": waited}
        run.history.append({**record, **figures})
        run.store(work.state)
        if processes.is_main():
            work.log(run.history[-1])
    return None


def _leave_at(best: dict[str, torch.Tensor], module: nn.Module) -> None:
    """Give ``module`` its best weights, the same in every process, on the CPU, in evaluation mode and without adapters."""
    # It lacks what was not trained.
    module.load_state_dict({name: whole(value, everywhere=True) for name, value in best.items()}, strict=False)
    processes.same(module.state_dict())  # where it was trained: a state that was read from its file is on the CPU
    merge(module)
    module.to("cpu").eval()


def _prepared(module: nn.Module, objective: Objective, training: Training, transfer: Transfer) -> tuple[State, Any]:
    """(all that an epoch changes, what gives the loss of a batch), on the device that training runs on."""
    train, device = training.schedule, training_device()
    parts = nn.ModuleList([module, objective] if isinstance(objective, nn.Module) else [module])
    in_parts = shares(training)
    (parts[1:] if in_parts else parts).to(device)  # what is in parts is there already
    batchnorm.check(parts, min(train.batch_size, len(training.samples)), train)
    rates = {f"{_MODULE}{name}": rate for name, rate in transfer.rates.items()}
    if train.privacy:
        transfer.begin(module, 0)
        private = _private(module, optimizer_of(parts, train), training)
        average = Average(module, train.ema) if train.ema else None
        return State(parts, private.optimizer, None, average, private), objective
    if processes.count() > 1 and any(until is not None for until in transfer.frozen.values()):
        raise UsageError("several processes cannot thaw layers", where="train.thaw", todo="train in one process")
    last = channels_last(module, train.precision, device, training.contract)
    call = caller(module, train, device, last=last)
    learner = _Learner(parts, lambda batch: objective(call, batch))
    # Before the average is made: it gives the weights new memory where there are several processes.
    learner = learner if in_parts else processes.parallel(learner)
    average = Average(module, train.ema) if train.ema else None
    transfer.begin(module, train.epochs)  # what is thawed later has its place in the optimizer from the start
    still = frozenset(f"{_MODULE}{name}" for name in transfer.still(module))
    optimizer, scaler = optimizer_of(parts, train, rates), scaler_of(train, device)
    return State(parts, optimizer, scaler, average, still=still, sharded=in_parts), learner


def _private(module: nn.Module, optimizer: torch.optim.Optimizer, training: Training) -> Private:
    check_private(module, training.contract, "train.privacy")
    train, usable = training.schedule, len(training.usable)
    steps = steps_per_epoch(len(training.samples), train) * train.epochs
    noise = training.noise or noise_for(train, usable, steps, 1, "train.privacy")
    return Private(module, optimizer, training, noise)


def _inputs(training: Training) -> int:
    """How many different inputs a part of the network gets; 0 where none comes again, or what is compiled is not to be touched."""
    train = training.schedule
    views = min(train.views, train.epochs) * len(training.samples) + len(training.validation)
    return 0 if train.epochs == 1 or train.compile or train.privacy or shares(training) else views


class _Learner(nn.Module):
    """What is trained, as one module whose output is the loss: what DistributedDataParallel takes."""

    def __init__(self, parts: nn.Module, loss: Callable[[Batch], Tensor]) -> None:
        super().__init__()
        self.parts, self._loss = parts, loss

    def forward(self, batch: Batch) -> Tensor:
        return self._loss(batch)

    def no_sync(self) -> AbstractContextManager[None]:
        """Of a network in parts the gradients of a batch's parts are added up as they come: none is held whole."""
        return nullcontext()


def _epoch(work: _Work, epoch: int) -> tuple[Tensor, float]:
    """Train for an epoch: (the loss of each step, float64 [steps], the last learning rate)."""
    run, learner, training = work.run, work.learner, work.training
    train, device = training.schedule, training_device()
    steps = steps_per_epoch(len(training.samples), train)
    torch.manual_seed(_mixed(training.seed, epoch, processes.rank()))  # dropout's generator
    losses, rate = [], 0.0
    chosen = run.private.drawn(epoch) if run.private else None
    drawn = work.feed.batches(epoch, chosen)
    for step in range(epoch * steps, (epoch + 1) * steps):
        rate = set_rate(run.optimizer, train, step, steps * train.epochs)
        parts = islice(drawn, train.accumulate)
        if run.private:
            losses.append(run.private.step(learner, parts, device))
            if run.average:
                run.average.update()
        else:
            losses.append(_step(run, learner, _left(parts, work), train, device))
        if step % 10 == 0:
            work.progress.step(work.task, step, steps * train.epochs, _status(epoch, train, run.history))
    # Read once an epoch: a GPU is not waited for at every step.
    return processes.total(torch.stack(losses).double()), rate


def _left(parts: Iterable[Batch], work: _Work) -> list[Batch]:
    """The parts of a step that every process can learn from: of a stream, rows whose files cannot be read are missing."""
    found = list(parts)
    if not work.training.reading.stream:
        return found
    least = 2 if batchnorm.names(work.run.parts) else 1
    few = torch.tensor([float(len(part.index) < least) for part in found], device=training_device())
    return [part for part, lost in zip(found, processes.total(few).tolist()) if not lost]


def _step(run: State, learner: Any, parts: Sequence[Batch], train: Train, device: torch.device) -> Tensor:
    """One step of the optimizer on a batch, which comes in ``train.accumulate`` parts; none where there is no part.

    Each part's loss counts by its samples, labelled or not, so that the sum of the gradients over parts and processes
    is that of the whole batch, whichever of them the labels are in. Returns the loss that way, a scalar on the device.
    """
    if not parts:
        return torch.zeros((), device=device)
    run.optimizer.zero_grad(set_to_none=True)
    losses = []
    for number, part in enumerate(parts, 1):
        # The processes' gradients are averaged once a step, at its last part; hence also the factor.
        last = number == len(parts) or processes.count() == 1
        with nullcontext() if last else learner.no_sync(), processes.together():
            loss = learner(part.to(device)) * part.share
            scaled = loss * processes.count()
            (run.scaler.scale(scaled) if run.scaler else scaled).backward()
        losses.append(loss.detach())
    if run.scaler:
        run.scaler.unscale_(run.optimizer)
    if run.sharded:
        mean_gradients(run.parts)
        clip(run.parts.parameters(), train.gradient_clip)
    else:
        nn.utils.clip_grad_norm_(run.parts.parameters(), train.gradient_clip)
    if run.scaler:
        run.scaler.step(run.optimizer)
        run.scaler.update()
    else:
        run.optimizer.step()
    if run.average:
        run.average.update()
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _best(history: list[dict[str, float]]) -> int:
    """The best epoch by validation, counted from 1; of equals the last."""
    return 1 + max(range(len(history)), key=lambda index: (history[index]["selection"], index))


def _diverged(task: str, epoch: int, losses: Tensor) -> MmedgeError:
    """What is told where there is no good epoch yet. ``losses``: [steps], those of the epoch."""
    lost = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
    if epoch == 0 and lost[:1] == [0]:  # nothing was learned yet: it is not the schedule
        return MmedgeError(
            "the loss of the very first batch is not finite",
            where=f"{task}, epoch 1, step 1 of {len(losses)}",
            todo="look for NaN or infinity in the model's outputs for the training samples, and in its weights",
        )
    step = f", step {lost[0] + 1} of {len(losses)}" if lost else ""
    return MmedgeError(
        "training diverged: the loss or the outputs are not finite",
        where=f"{task}, epoch {epoch + 1}{step}",
        todo="lower train.learning_rate",
    )


def _stalled(history: list[dict[str, float]], patience: int | None) -> bool:
    return bool(patience and history) and len(history) - _best(history) >= (patience or 0)


def _status(epoch: int, train: Train, history: list[dict[str, float]]) -> str:
    """What stands beside the progress bar."""
    last = f", validation {history[-1]['quality']:.3f}" if history else ""
    return f"epoch {epoch + 1}/{train.epochs}{last}"


def _validated(work: _Work) -> dict[str, float] | None:
    """The epoch's figures, by the average of the weights where there is one; the best weights are kept."""
    run, module = work.run, work.module
    with run.average.swapped_in() if run.average else nullcontext():
        if run.sharded:  # its weights are brought together by all
            own = work.judge(module, work.training)
            figures = processes.of_main(lambda: own)
        else:
            figures = processes.of_main(lambda: work.judge(module, work.training))
        if figures and figures["selection"] >= max((h["selection"] for h in run.history), default=-math.inf):
            live = module.state_dict()
            run.best = {
                name: value.detach().clone() for name, value in live.items() if f"{_MODULE}{name}" not in run.still
            }
    return figures


def _validate(module: nn.Module, training: Training) -> dict[str, float] | None:
    """Validation figures of one epoch; None where the outputs are not finite.

    ``selection`` weighs all modalities present as much as the mean of the subsets, so that the best checkpoint is not
    one that forgot a modality.
    """
    module.eval()
    finite, contract, validation = True, training.contract, training.validation

    def outputs_of(present: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal finite
        outputs = predict_module(module, contract, validation, present)
        finite = finite and all(np.isfinite(output).all() for output in outputs.values())
        return outputs

    predict = placing(outputs_of, contract, validation)
    scores = subset_scores(contract, validation, predict)
    quality = scores.get("+".join(contract.modalities))
    if quality is None:  # no sample has every modality
        quality = score(contract, predict(validation.present), validation.targets)
    return {"quality": quality, "selection": balanced(quality, scores.values())} if finite else None


def _mixed(seed: int, epoch: int, rank: int) -> int:
    own = [rank] if rank else []  # so that one process draws as the first of several
    return int(np.random.SeedSequence([seed, epoch, *own]).generate_state(1)[0])
