"""Speed of distillation's loop against a bare PyTorch loop of the same arithmetic, and what reading a sample costs of it.

`python -m tests.benchmarks.training_speed` prints one JSON document; nothing is asserted about time, since machines differ.
Teacher and student are those of recipes/avdigits-all-labels.yaml; the samples are noise of the demo's shapes in mapped files.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge import recipe
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.models import load
from mmedge.progress import Silent
from mmedge.recipe import Recipe, Train
from mmedge.training.loop.batches import Batch, Look, Training, batches, every_side, view_of
from mmedge.training.loop.fit import fit
from mmedge.training.loop.optimizer import optimizer_of, set_rate
from mmedge.training.objectives import Distillation
from mmedge.training.teaching.caching import Demand
from mmedge.training.teaching.sources import ModuleSource, TrainingViews
from mmedge.training.teaching.teachers import Teacher

_STEPS, _ROUNDS = 30, 7


def clock() -> float:
    """Seconds of this process's own work where it has one thread (whoever else keeps the machine busy is left out), else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def noise(folder: Path, demo: Recipe, name: str, count: int) -> tuple[Contract, Samples]:
    """A split of ``count`` samples of the demo's shapes, its inputs in mapped files as those of a run are."""
    contract = Contract(task="classification", modalities=demo.data.modalities, labels=tuple("0123456789"))
    rng, inputs = np.random.default_rng(0), {}
    for modality, spec in contract.modalities.items():
        np.save(folder / f"{modality}.{name}.npy", rng.normal(size=(count, *spec.shape)).astype(np.float32))
        inputs[modality] = np.load(folder / f"{modality}.{name}.npy", mmap_mode="r")
    present = np.ones((count, len(inputs)), bool)
    ids, targets = tuple(map(str, range(count))), {"logits": np.arange(count) % 10}
    return contract, Samples(name, ids, inputs, present, targets, np.arange(count), contract.heads)


class Bare:
    """What one would write by hand for this student, this teacher and these losses, and nothing else."""

    def __init__(self, student: nn.Module, teacher: nn.Module, samples: Samples, train: Train, demo: Recipe) -> None:
        assert demo.distill is not None
        self.student, self.teacher, self.samples, self.train = student, teacher, samples, train
        self.loss = demo.distill.loss
        self.project = nn.Linear(demo.distill.model.hidden, demo.teacher.model.hidden)
        self.parts = nn.ModuleList([student, self.project])
        self.hints: dict[str, torch.Tensor] = {}
        for name, module in (("student", student), ("teacher", teacher)):
            module.get_submodule("fusion").register_forward_hook(
                lambda _m, _i, out, name=name: self.hints.update({name: out})
            )

    def loss_of(self, inputs: Mapping[str, Tensor], have: Tensor, sides: Tensor, targets: Tensor) -> Tensor:
        """The recipe's loss; ``have``: bool [batch, M], ``sides``: bool [batch, 3, M], what the student is shown in turn."""
        output = self.student(present=sides, **inputs)["logits"]
        with torch.no_grad():
            answer = self.teacher(present=have, **inputs)["logits"]
        answer, hint, targets = (
            x.repeat_interleave(sides.shape[1], dim=0) for x in (answer, self.hints["teacher"], targets)
        )
        t = self.loss.temperature
        soft = F.kl_div(
            F.log_softmax(output / t, dim=1), F.log_softmax(answer / t, dim=1), reduction="batchmean", log_target=True
        )
        mine, theirs = (F.normalize(x, dim=1) for x in (self.project(self.hints["student"]), hint))
        return (
            self.loss.labels * F.cross_entropy(output, targets)
            + self.loss.logits * t**2 * soft
            + self.loss.hints[0].weight * (mine - theirs).square().sum(dim=1).mean()
        )

    def __call__(self) -> float:
        """Seconds a step, over one epoch that begins, as a fit does, with an optimizer that has seen nothing."""
        rng, total = np.random.default_rng(0), 0.0
        optimizer = optimizer_of(self.parts, self.train)
        self.student.train()
        began = 0.0
        for step, index in enumerate(rng.permutation(len(self.samples)).reshape(_STEPS, -1)):
            began = began or clock()
            last = clock()
            inputs = view_of(self.samples, index, Look(self.train.augment, 0, 0))
            have = self.samples.present[index]
            sides = torch.from_numpy(every_side(have, rng))
            targets = torch.from_numpy(self.samples.targets["logits"][index])
            set_rate(optimizer, self.train, step, _STEPS)
            loss = self.loss_of(inputs, torch.from_numpy(have), sides, targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parts.parameters(), self.train.gradient_clip)
            optimizer.step()
            total += loss.item()
        return (last - began) / (_STEPS - 1)


class Timed(nn.Module):
    """An objective that notes when it was called."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, []

    def forward(self, module: Any, batch: Any) -> torch.Tensor:
        self.calls.append(clock())
        return self.inner(module, batch)


def measured(folder: Path) -> dict[str, Any]:
    """Steps per second of each way, all in turn (A B C A B C …), as medians over the rounds."""
    demo = recipe.load(Path(__file__).parents[2] / "recipes" / "avdigits-all-labels.yaml")
    assert demo.distill is not None
    schedule = demo.distill.train
    train = schedule.model_copy(update={"epochs": 1})
    contract, samples = noise(folder, demo, "train", _STEPS * train.batch_size)
    _, validation = noise(folder, demo, "validation", 500)

    def build(section: Any) -> nn.Module:
        torch.manual_seed(0)
        return load.build(section, contract, factory=None, means={})

    teacher = build(demo.teacher.model).eval()
    loss = demo.distill.loss
    demands = {mode: Demand(1, train.batch_size, mode) for mode in ("never", "always")}
    source = ModuleSource(
        teacher, contract, TrainingViews(samples, train.augment, 0), loss.hints, key="t", who="the teacher"
    )
    teachers = {
        mode: Teacher(
            source, len(samples), 1, demand=of, hints=loss.hints, folder=folder / "answers", progress=Silent()
        )
        for mode, of in demands.items()
    }
    batch = _first(contract, samples, train)
    teachers["always"].outputs(batch, torch.device("cpu"))  # fills the cache
    bare = Bare(build(demo.distill.model), teacher, samples, train, demo)
    _check_same_arithmetic(bare, Distillation(bare.student, teachers["never"], contract, loss, train), batch)
    whole: dict[str, list[float]] = {"never": [], "always": []}

    def fitted(mode: str) -> Callable[[], float]:
        def run() -> float:
            student = build(demo.distill.model)  # type: ignore[union-attr]
            objective = Timed(Distillation(student, teachers[mode], contract, loss, train))
            began = clock()
            fit(
                student,
                objective,
                Training(contract, samples, validation, train, np.arange(len(samples)), 0, 0),
                state=folder / f"{mode}-{time.monotonic_ns()}",
                task="t",
                progress=Silent(),
            )
            whole[mode].append((clock() - began) / _STEPS)
            return (objective.calls[-1] - objective.calls[0]) / (_STEPS - 1)

        return run

    ways: dict[str, Callable[[], float]] = {
        "bare": bare,
        "live": fitted("never"),
        "cached": fitted("always"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(_ROUNDS + 1):
        for name, way in ways.items():
            taken = way()
            if turn:  # the first round warms up
                seconds[name].append(taken)
    ratios = {
        name: statistics.median(bare / own for bare, own in zip(seconds["bare"], seconds[name], strict=True))
        for name in ("live", "cached")
    }
    step = statistics.median(seconds["cached"])
    reading, viewing = (_views(samples, train.batch_size, augment) for augment in ({}, train.augment))
    return {
        "steps_per_second": {name: round(1 / statistics.median(of), 2) for name, of in seconds.items()},
        "with_validation_and_state": {
            {"never": "live", "always": "cached"}[mode]: round(1 / statistics.median(of[1:]), 2)
            for mode, of in whole.items()
        },
        "ratio_to_bare": {name: round(value, 3) for name, value in ratios.items()},
        "samples": {
            "reading_us_a_batch": round(reading * 1e6, 1),
            "augmented_us_a_batch": round(viewing * 1e6, 1),
            "reading_share_of_a_cached_step": round(reading / step, 4),
            "augmented_share_of_a_cached_step": round(viewing / step, 4),
        },
    }


def _check_same_arithmetic(bare: Bare, ours: Distillation, batch: Batch) -> None:
    """The two loops must compute the same loss, or their speeds say nothing of each other."""
    ours.project[0].student.load_state_dict(bare.project.state_dict())
    have = torch.from_numpy(bare.samples.present[batch.index])
    by_hand = bare.loss_of(batch.inputs, have, batch.present, batch.targets["logits"])
    torch.testing.assert_close(ours(bare.student, batch), by_hand)


def _first(contract: Contract, samples: Samples, train: Train) -> Batch:
    return next(batches(Training(contract, samples, samples, train, np.arange(len(samples)), 0, 0), epoch=0))


def _views(samples: Samples, batch: int, augment: Any) -> float:
    """Seconds to read (and augment) a batch of rows in any order; the median of many."""
    rng, seconds = np.random.default_rng(0), []
    for _ in range(200):
        index = rng.integers(len(samples), size=batch)
        began = clock()
        view_of(samples, index, Look(augment, 0, 0))
        seconds.append(clock() - began)
    return statistics.median(seconds)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), **measured(Path(folder))}
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
