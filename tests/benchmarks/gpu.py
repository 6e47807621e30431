"""Training on a GPU beside a bare PyTorch loop: samples a second, what waits for data, memory, and what AMP, compile and channels last gain.

`python -m tests.benchmarks.gpu` (``make bench-gpu``) needs one NVIDIA GPU and prints Markdown tables; without one it says that
nothing was measured. ``--tiny`` runs all of it on whatever there is, with a network and pictures so small that its figures mean
nothing: whether it runs is seen so. The teacher is ResNet-50 (He et al. 2016) on pictures of 3 x 224 x 224 from mmedge's store, by a
random resized crop, a mirror and colours; the bare loop gets one batch that lies on the GPU, so that it waits for nothing.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.data.store.rows import Reading, Rows, Shards
from mmedge.data.store.samples import Samples
from mmedge.machine import machine
from mmedge.progress import Silent
from mmedge.recipe import Augment, Loss, Train
from mmedge.spec import ImageSpec
from mmedge.tasks import Head
from mmedge.training.loop import fit as fitting
from mmedge.training.loop.batches import Training
from mmedge.training.loop.device import training_device
from mmedge.training.loop.optimizer import optimizer_of
from mmedge.training.loop.precision import autocast
from mmedge.training.objectives import Distillation, Supervised
from mmedge.training.teaching.caching import Demand
from mmedge.training.teaching.sources import Inference, ModuleSource, TrainingViews
from mmedge.training.teaching.teachers import Teacher

CLASSES = 1000
_CHANGES = Augment(crop=0.08, flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4)


@dataclass(frozen=True)
class Size:
    """``side``: of the pictures; ``images``: how many; ``batch``; ``blocks`` and ``width``: of the teacher; ``steps``: of the bare loop."""

    side: int = 224
    images: int = 6400
    batch: int = 128
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    steps: int = 30


TINY = Size(32, 32, 8, (1, 1), 8, 2)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut. ``forward``: float [batch, inputs, h, w] -> [batch, 4 * width, h', w']."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, kernel, step in ((inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)):
            layers += [
                nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.inner = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != 4 * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet of bottlenecks. ``forward``: present bool [batch, 1], image float [batch, 3, h, w] -> {"logits": [batch, classes]}."""

    def __init__(self, blocks: tuple[int, ...], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, 2, 1))
        inputs = width
        for stage, count in enumerate(blocks):
            for number in range(count):
                layers.append(Bottleneck(inputs, width << stage, 2 if stage and not number else 1))
                inputs = 4 * (width << stage)
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(inputs, CLASSES)

    def forward(self, present: Tensor, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.layers(image).mean(dim=(2, 3)))}


def network(size: Size, part: int = 1) -> ResNet:
    """The teacher, or with ``part`` a student of a part of its width."""
    torch.manual_seed(0)
    return ResNet(size.blocks, size.width // part)


def contract_of(size: Size) -> Contract:
    """Pictures of the size, and the classes."""
    spec = ImageSpec(kind="image", height=size.side, width=size.side, mean=(0.5,) * 3, std=(0.25,) * 3)
    return Contract(
        modalities={"image": spec},
        heads={"logits": Head(task="classification", labels=tuple(map(str, range(CLASSES))))},
    )


def samples(folder: Path, size: Size) -> tuple[Contract, Samples]:
    """Pictures of noise in the store's form; reading and changing them costs what photographs cost."""
    contract = contract_of(size)
    spec = contract.modalities["image"]
    shards = Shards(folder / "train", "uint8", size.images, spec.shape)
    rng = np.random.default_rng(0)
    for file, count in shards.files:
        np.save(file, rng.integers(0, 256, (count, *spec.shape), np.uint8))
    rows = Rows(spec, shards, np.ones(size.images, bool))
    ids, targets = tuple(map(str, range(size.images))), {"logits": np.arange(size.images) % CLASSES}
    present = np.ones((size.images, 1), bool)
    return contract, Samples("train", ids, {"image": rows}, present, targets, np.arange(size.images), contract.heads)


def bare(module: nn.Module, size: Size, train: Train, teacher: nn.Module | None = None) -> float:
    """Samples a second of what one writes by hand: one batch, forward, backward, clipping, a step; with a teacher its softened logits."""
    device = training_device()
    module.to(device).train()
    call: Any = torch.compile(module) if train.compile else module
    optimizer = optimizer_of(module, train)
    scaler = torch.amp.GradScaler(device.type) if train.precision == "fp16" else None
    image = torch.randn(size.batch, 3, size.side, size.side, device=device)
    if fitting.channels_last(module, train.precision, device, contract_of(size)):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        image = image.to(memory_format=torch.channels_last)
    present = torch.ones(size.batch, 1, dtype=torch.bool, device=device)
    targets = torch.arange(size.batch, device=device) % CLASSES

    def step() -> None:
        with autocast(train.precision, device):
            logits = call(present=present, image=image)["logits"]
        loss = F.cross_entropy(logits.float(), targets)
        if teacher is not None:
            with torch.no_grad(), autocast(train.precision, device):
                asked = teacher(present=present, image=image)["logits"].float()
            loss = loss + F.kl_div(
                F.log_softmax(logits.float(), 1), F.log_softmax(asked, 1), reduction="batchmean", log_target=True
            )
        optimizer.zero_grad(set_to_none=True)
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(module.parameters(), train.gradient_clip)
        _ = (scaler.step(optimizer), scaler.update()) if scaler else optimizer.step()

    for _ in range(5):
        step()
    _wait()
    began = time.perf_counter()
    for _ in range(size.steps):
        step()
    _wait()
    return size.steps * size.batch / (time.perf_counter() - began)


@dataclass(frozen=True)
class Figure:
    """Samples a second, the share of time that the device waited for data, and MB of its memory at most."""

    rate: float
    waiting: float
    memory: float


def ours(module: nn.Module, objective: Any, training: Training, folder: Path) -> Figure:
    """The same by mmedge's loop, from the store, with augmentation: the fastest epoch but the first."""
    records: list[Any] = []
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    fitting.fit(
        module,
        objective,
        training,
        state=folder / f"state-{time.monotonic_ns()}",
        task="t",
        progress=Silent(),
        log=records.append,
    )
    best = min(records[1:], key=lambda record: record["seconds"])
    memory = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0
    return Figure(len(training.samples) / best["seconds"], best["waiting"], memory)


def measured(folder: Path, size: Size) -> str:
    """Both tables as Markdown."""
    contract, data = samples(folder, size)
    few = data.taken(np.arange(size.batch))
    plain = Train(epochs=3, batch_size=size.batch, augment={"image": _CHANGES}, views=3)

    def training(train: Train) -> Training:
        return Training(contract, data, few, train, np.arange(len(data)), 0, 0, reading=Reading())

    lines = ["| teacher | bare loop, images/s | mmedge, images/s | ratio | waiting | MB |", "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    ways: list[dict[str, Any]] = [{}, {"precision": "bf16"}, {"precision": "bf16", "compile": True}]
    ways += [{"precision": "bf16", "checkpointing": True}]
    ways += [{"precision": "fp16"}] if training_device().type == "cuda" else []
    for way in ways:
        train = plain.model_copy(update=way)
        by_hand = bare(network(size), size, train)
        found = ours(network(size), Supervised(contract, train), training(train), folder)
        lines.append(_line(", ".join(f"{k} {v}" for k, v in way.items()) or "fp32", by_hand, found))
    # What channels last in memory gain, which half precision has on a GPU by itself: the same without.
    train = plain.model_copy(update={"precision": "bf16"})
    with patch.object(fitting, "channels_last", lambda *_: False):
        by_hand = bare(network(size), size, train)
        found = ours(network(size), Supervised(contract, train), training(train), folder)
    lines.append(_line("precision bf16, channels first", by_hand, found))
    lines += ["", "| student | bare loop, images/s | mmedge, images/s | ratio | waiting | MB |", "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    # One view: its outputs are kept in the first epoch, and read in the others.
    train, teacher = (
        plain.model_copy(update={"precision": "bf16", "views": 1}),
        network(size).to(training_device()).eval(),
    )
    by_hand = bare(network(size, 4), size, train, teacher)
    source = ModuleSource(
        teacher, contract, TrainingViews(data, train.augment, 0), [], key="t", who="the teacher", how=Inference("bf16")
    )
    for mode in ("never", "always"):
        demand = Demand(3, size.batch, mode)  # type: ignore[arg-type]
        asked = Teacher(source, len(data), 1, demand=demand, hints=[], folder=folder / mode, progress=Silent())
        student = network(size, 4)
        found = ours(student, Distillation(student, asked, contract, Loss(), train), training(train), folder)
        told = {"never": "the teacher runs at every step", "always": "its outputs are kept"}
        lines.append(_line(told[mode], by_hand, found))
    return "\n".join(lines)


def _line(name: str, by_hand: float, found: Figure) -> str:
    cells = [name, f"{by_hand:,.0f}", f"{found.rate:,.0f}", f"{found.rate / by_hand:.2f}"]
    return f"| {' | '.join([*cells, f'{found.waiting:.1%}', f'{found.memory:,.0f}'])} |"


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, or that there is no GPU."""
    tiny = "--tiny" in (sys.argv[1:] if arguments is None else arguments)
    if not torch.cuda.is_available() and not tiny:
        print("There is no GPU here: nothing was measured. --tiny runs the same code on the CPU.")
        return
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"no GPU, {machine().cpu}"
    print(f"{where}, torch {torch.__version__}{', tiny: the figures mean nothing' if tiny else ''}\n")
    with tempfile.TemporaryDirectory() as folder:
        print(measured(Path(folder), TINY if tiny else Size()))


if __name__ == "__main__":
    main()
