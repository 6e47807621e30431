"""What channels last in memory gain or cost on this CPU: steps of training, with pictures as they are and so, in turn.

`python -m tests.benchmarks.layout [bf16]` prints Markdown: processor time of a step, and the median of the ratios of neighbouring steps.
"""

from __future__ import annotations

import sys
import time
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.machine import machine
from mmedge.models import load
from mmedge.recipe import Model, Train
from mmedge.spec import ImageSpec
from mmedge.training.loop.precision import caller

# Kind of encoder, channels and side of the pictures, batch, more of the encoder's section.
_CASES: list[tuple[str, int, int, int, dict[str, object]]] = [
    ("conv", 1, 28, 64, {}),
    ("conv", 3, 64, 32, {}),
    ("resnet", 1, 28, 64, {}),
    ("resnet", 3, 64, 32, {}),
    ("resnet", 3, 64, 16, {"widths": [64, 128, 256], "depth": 2}),
    ("mobilenet", 3, 64, 32, {}),
    ("convnext", 3, 64, 32, {}),
]
_STEPS, _WARM = 9, 2
# As they are; pictures with channels last; pictures and weights so.
_WAYS = ((False, False), (True, False), (True, True))


def measured(case: tuple[str, int, int, int, dict[str, object]], precision: str) -> tuple[float, list[float]]:
    """(ms of processor time of a step as it is, how many times as long the other ways take)."""
    kind, channels, side, batch, more = case
    spec = ImageSpec(kind="image", height=side, width=side, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)  # fmt: skip
    contract = Contract(task="classification", modalities={"x": spec}, labels=("a", "b", "c"))
    section = Model.model_validate({"encoders": {"x": {"kind": kind, **more}}})
    train, cpu = Train(precision=precision), torch.device("cpu")  # type: ignore[arg-type]
    x, present = torch.randn(batch, *spec.shape), torch.ones(batch, 1, dtype=torch.bool)
    targets, seconds = torch.arange(batch) % 3, list[list[float]]()
    made = []
    for last, weights in _WAYS:
        torch.manual_seed(0)
        module = load.build(section, contract).train()
        if weights:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        given = x.to(memory_format=torch.channels_last) if last else x
        made.append((caller(module, train, cpu), torch.optim.AdamW(module.parameters()), given))
    for _ in range(_STEPS):
        seconds.append([_step(*one, present, targets) for one in made])
    kept = seconds[_WARM:]
    return median(row[0] for row in kept) * 1e3, [median(row[n] / row[0] for row in kept) for n in (1, 2)]


def _step(call: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, present: Tensor, targets: Tensor) -> float:
    began = time.process_time()
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(call(x=x, present=present)["logits"], targets).backward()
    optimizer.step()
    return time.process_time() - began


def main() -> None:
    """Print the table."""
    precision = (sys.argv[1:] or ["fp32"])[0]
    torch.set_num_threads(1)
    print(f"{machine().cpu}, torch {torch.__version__}, one thread, {precision}\n")
    print("| encoder, pictures, batch | step, ms | channels last | weights too |\n| --- | --- | --- | --- |")
    for case in _CASES:
        kind, channels, side, batch, more = case
        ms, ratios = measured(case, precision)
        wide = f", widths {more['widths']}" if more else ""
        print(f"| {kind}{wide}, {channels} x {side} x {side}, {batch} | {ms:.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
