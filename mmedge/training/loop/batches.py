"""Which samples, which view of them and which modalities a training step sees: all of it a function of seed and epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.data.augment import resolved
from mmedge.data.augment.chance import Chance
from mmedge.data.augment.mix import Mixing, mixing
from mmedge.data.store.rows import Reading
from mmedge.data.store.samples import Samples
from mmedge.data.views import Asked, Begun, Views
from mmedge.recipe import Augment, Mix, Train


@dataclass(frozen=True)
class Batch:
    """``index``: int64 [batch], rows of the split; ``view``: the augmented view; ``present`` after modality dropout.

    ``targets``: {head: [batch, ...]}; ``weights``: {head: float32 [batch]}, what each label counts, empty where all count
    the same. ``partners``: {head: [batch, ...]}, the targets of whom each sample is mixed with, and ``partner_weights`` what
    they count; empty where nothing is mixed. ``passed``: the share of the schedule that lies behind, 0 in the first epoch. ``present`` may be [batch, k, modalities]: each sample is then
    run k times, and a module's outputs are [batch * k, W]. ``share``: what part of its batch this is, by
    samples; 1 is the whole. ``unreadable``: {row: what is wrong} of rows that are left out, since their files cannot be read.
    """

    index: np.ndarray
    view: int
    inputs: dict[str, Tensor]
    present: Tensor
    targets: dict[str, Tensor]
    weights: dict[str, Tensor] = field(default_factory=dict)
    passed: float = 0.0
    share: float = 1.0
    unreadable: dict[int, str] = field(default_factory=dict)
    partners: dict[str, Tensor] = field(default_factory=dict)
    partner_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def repeats(self) -> int:
        """How often each sample is run: k."""
        return self.present.shape[1] if self.present.dim() == 3 else 1

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; on its own device it is not copied."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU copies from while it computes."""
        return self._each(lambda x: x.pin_memory())

    def apart(self, from_what: Iterable[np.ndarray]) -> Batch:
        """The same batch, which shares no memory with these arrays."""
        held = list(from_what)
        shares = [name for name, x in self.inputs.items() if any(np.may_share_memory(x.numpy(), y) for y in held)]
        return replace(self, inputs={**self.inputs, **{name: self.inputs[name].clone() for name in shares}})

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        held = (self.inputs, self.targets, self.weights, self.partners, self.partner_weights)
        parts = [{key: change(x) for key, x in tensors.items()} for tensors in held]
        return replace(
            self,
            inputs=parts[0],
            present=change(self.present),
            targets=parts[1],
            weights=parts[2],
            partners=parts[3],
            partner_weights=parts[4],
        )


def steps_per_epoch(samples: int, train: Train) -> int:
    """An epoch is as many steps as all samples fill, labelled or not, so that schedules with and without a teacher agree."""
    whole = max(1, samples // train.batch_size)
    return whole if train.max_steps is None else min(whole, train.max_steps)


@dataclass(frozen=True)
class Training:
    """What a model is trained on, how, and by which chance.

    ``usable``: int64, the rows of ``samples`` that may be drawn; ``seed``: of their order and of what is dropped;
    ``view_seed``: of the augmented views, which teacher and student share. ``noise``: of a private training that shares its
    budget with others, in units of its clip; None where the budget is its own. ``reading``: how the samples are read.
    ``sharded``: several processes hold parts of the network each, and none the whole.
    """

    contract: Contract
    samples: Samples
    validation: Samples
    schedule: Train
    usable: np.ndarray
    seed: int
    view_seed: int
    noise: float | None = None
    reading: Reading = field(default_factory=Reading)
    sharded: bool = False


@dataclass(frozen=True)
class Plan:
    """A batch that is not made yet: its rows, and all that chance says of it. ``present``: as of ``Batch``."""

    index: np.ndarray
    view: int
    present: np.ndarray
    passed: float
    share: float


def plans(
    training: Training, epoch: int, rank: int = 0, count: int = 1, drawn: Iterable[np.ndarray] | None = None
) -> Iterator[Plan]:
    """The batches of one epoch over the usable rows, each row as often as any other where ``sampling`` is uniform.

    Each comes in ``train.accumulate`` parts, one after another, and of each part come the rows of process ``rank`` of
    ``count``: batch norm over all processes sees the same samples together as in one process. ``drawn``: the rows of each
    step, int64, where something else draws them; of these a part may be empty.
    """
    samples, train = training.samples, training.schedule
    rng = np.random.default_rng([training.seed, epoch])
    view, towers = epoch % train.views, _towers(training.contract)
    for whole in _steps(training, rng) if drawn is None else drawn:
        own = [
            _part(part, count, rank)
            for part in (_part(slice(0, len(whole)), train.accumulate, n) for n in range(train.accumulate))
        ]
        available = samples.present[whole]
        if train.modality_dropout == "every":
            present = every_side(available, rng, towers)
        else:
            present = drop_modalities(available, train.modality_dropout, rng, towers)
        for rows in own:
            share = len(whole[rows]) / max(1, len(whole))
            yield Plan(whole[rows], view, present[rows], epoch / train.epochs, share)


class Maker:
    """Makes the batches of a training of its plans, whose views may be begun in another process."""

    def __init__(self, training: Training) -> None:
        self._training = training
        samples, train = training.samples, training.schedule
        self._weights = class_weights(samples) if train.class_weights == "balanced" else {}
        self.views = Views(
            samples.inputs, resolved(train.augment, training.contract.modalities), training.view_seed, len(samples)
        )

    def asked(self, plan: Plan) -> Asked:
        """The views that a batch needs."""
        mix = self._training.schedule.mix if len(plan.index) else None
        look = Look({}, self._training.view_seed, plan.view, mix)
        return self.views.asked(plan.index, plan.view, look.mixing(self._training.samples, plan.index))

    def __getitem__(self, plan: Plan) -> Batch:
        asked = self.asked(plan)
        return self.made(plan, asked, self.views.begin(asked))

    def made(self, plan: Plan, asked: Asked, begun: Begun) -> Batch:
        """The batch of a plan, of its views as they were ``begun``; it may hold the arrays of these."""
        index, how, unreadable = plan.index, asked.how, begun.unreadable
        inputs, present = _tensors(self.views.finish(asked, begun)), torch.from_numpy(plan.present)
        if unreadable:
            read = ~np.isin(index, list(unreadable))
            if how is not None:
                read &= ~np.isin(how.partner, list(unreadable)) | (how.own == 1)
                how = how.some(read)
            index, present = index[read], present[read]
            inputs = {name: x[read] for name, x in inputs.items()}
        targets, weights = self._labels(index, how.own if how else None)
        partners = self._labels(how.partner, 1 - how.own) if how else ({}, {})
        return Batch(
            index, plan.view, inputs, present, targets, weights, plan.passed, plan.share, unreadable, *partners
        )

    def _labels(self, index: np.ndarray, part: np.ndarray | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(the targets of some rows, what each counts). ``part``: float64 [batch], of a mix."""
        targets = {head: torch.from_numpy(x[index]) for head, x in self._training.samples.targets.items()}
        if part is None:
            return targets, {head: torch.from_numpy(x[index]) for head, x in self._weights.items()}
        each = {head: part * self._weights[head][index] if head in self._weights else part for head in targets}
        return targets, {head: torch.from_numpy(x.astype(np.float32)) for head, x in each.items()}


def batches(
    training: Training, epoch: int, rank: int = 0, count: int = 1, drawn: Iterable[np.ndarray] | None = None
) -> Iterator[Batch]:
    """The batches of one epoch, made one by one in this process; see ``plans``."""
    make = Maker(training)
    return (make[plan] for plan in plans(training, epoch, rank, count, drawn))


def _steps(training: Training, rng: np.random.Generator) -> np.ndarray:
    """int64 [steps, batch]: the rows of each step of an epoch."""
    samples, train, usable = training.samples, training.schedule, training.usable
    size, steps = min(train.batch_size, len(samples)), steps_per_epoch(len(samples), train)
    if train.sampling != "uniform":
        shares = _shares(samples, usable) if train.sampling == "balanced" else _of_subsets(samples.present[usable])
        order = rng.choice(usable, steps * size, p=shares)
    else:
        rounds = -(-steps * size // len(usable))
        order = np.concatenate([rng.permutation(usable) for _ in range(rounds)])[: steps * size]
    return order.reshape(steps, size)


def _part(rows: slice, parts: int, number: int) -> slice:
    """Part ``number`` of ``rows`` in ``parts`` parts as equal as can be."""
    bounds = np.linspace(rows.start, rows.stop, parts + 1).round().astype(int).tolist()
    return slice(bounds[number], bounds[number + 1])


def class_weights(samples: Samples) -> dict[str, np.ndarray]:
    """{head: float32 [N]}: what each row's label counts where classes are balanced; of heads that can be."""
    each = {name: tasks.of(head) for name, head in samples.heads.items()}
    return {name: task.weights(samples.targets[name]) for name, task in each.items() if task.BALANCED}


def _shares(samples: Samples, rows: np.ndarray) -> np.ndarray:
    """float64 [n], adding up to 1: every class of the first head that has them is drawn as often as any other.

    The unlabelled come as often as in the data.
    """
    for name, head in samples.heads.items():
        if tasks.of(head).BALANCED:
            weights = tasks.of(head).weights(samples.targets[name][rows]).astype(np.float64)
            return weights / weights.sum()
    return np.full(len(rows), 1 / len(rows))


def _of_subsets(present: np.ndarray) -> np.ndarray:
    """float64 [n], adding up to 1: every set of modalities that rows have is drawn as often as any other. ``present``: bool [n, M]."""
    _, which, counts = np.unique(present, axis=0, return_inverse=True, return_counts=True)
    shares: np.ndarray = 1 / (len(counts) * counts[which.reshape(-1)])
    return shares


@dataclass(frozen=True)
class Look:
    """How samples are looked at: view ``view`` of those that ``augment`` and ``mix`` make by the seed ``seed``."""

    augment: Mapping[str, Augment]
    seed: int
    view: int
    mix: Mix | None = None

    def mixing(self, samples: Samples, index: np.ndarray) -> Mixing | None:
        """Whom the rows ``index`` are mixed with, if anybody."""
        chance = Chance(self.seed, self.view, index, len(samples))
        return mixing(self.mix, chance, samples.present) if self.mix else None


def view_of(samples: Samples, index: np.ndarray, look: Look) -> dict[str, Tensor]:
    """{modality: [batch, *shape]}: the samples as one view shows them. The same (seed, view, row) gives the same view."""
    views = Views(samples.inputs, look.augment, look.seed, len(samples))
    asked = views.asked(index, look.view, look.mixing(samples, index))
    return _tensors(views.finish(asked, views.begin(asked)))


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(x) for name, x in arrays.items()}


Towers = Sequence[Sequence[int]]


def _towers(contract: Contract) -> Towers:
    """The columns of ``present`` that each tower sees, of a head that has some: none of them may lose all."""
    names = list(contract.modalities)
    return [[names.index(name) for name in sees] for head in contract.heads.values() for sees in head.towers.values()]


def drop_modalities(available: np.ndarray, share: float, rng: np.random.Generator, towers: Towers = ()) -> np.ndarray:
    """bool [batch, M]: with probability ``share`` a sample keeps a random proper subset of its modalities (never none).

    Modality dropout as in ModDrop (Neverova et al. 2016), over whole subsets instead of single modalities. A pair of
    which one tower sees nothing is none, so that subsets have something of each of the ``towers``.
    """
    proper = _proper(available.shape[1], towers)
    if not len(proper) or share == 0:
        return available
    kept = available & proper[rng.integers(len(proper), size=len(available))]
    dropped = (rng.random(len(available)) < share) & kept.any(axis=1)
    return np.where(dropped[:, None], kept, available)


def every_side(available: np.ndarray, rng: np.random.Generator, towers: Towers = ()) -> np.ndarray:
    """bool [batch, 3, M]: all that a sample has, a random proper subset of its modalities, and the rest of them.

    Where a side would be empty, or have nothing of one of the ``towers``, it is all that the sample has. One modality,
    or one a tower, is [batch, 1, M].
    """
    proper = _proper(available.shape[1], towers)
    if not len(proper):
        return available[:, None]
    chosen = proper[rng.integers(len(proper), size=len(available))]
    sides = available[:, None] & np.stack([np.ones_like(chosen), chosen, ~chosen], axis=1)
    whole = np.all([sides[:, :, sees].any(axis=2) for sees in towers or [range(sides.shape[2])]], axis=0)
    return np.where(np.asarray(whole)[:, :, None], sides, available[:, None])


def _proper(count: int, towers: Towers) -> np.ndarray:
    """bool [n, count]: the subsets that are neither empty nor whole, and have something of each of the towers."""
    found = [set(chosen) for size in range(1, count) for chosen in combinations(range(count), size)]
    able = [chosen for chosen in found if all(chosen & set(sees) for sees in towers)]
    return np.array([[m in chosen for m in range(count)] for chosen in able])
