"""Feeding a model at real size: samples a second by stage and by workers, beside a plain DataLoader and WebDataset.

`python -m tests.benchmarks.data [FOLDER]` (``make bench-data``) prints tables. Images are of 3 x 224 x 224, from photographs
of 640 x 427; all ways do the same: a random resized crop, a mirror, brightness, contrast and saturation, normalisation.
Memory is that of an epoch of 100,000 samples, of a file with holes, so that no disk has to hold 15 GB.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmedge.contract import Contract
from mmedge.data.augment import augmented, resolved
from mmedge.data.augment.chance import Chance
from mmedge.data.store.decode import Modality, decode
from mmedge.data.store.rows import Reading, Rows, Shards
from mmedge.data.store.samples import Samples
from mmedge.machine import resident_bytes
from mmedge.progress import Silent
from mmedge.recipe import Augment, Train
from mmedge.spec import AudioSpec, ImageSpec, ModalitySpec, SensorSpec, TabularSpec, TextSpec
from mmedge.tasks import Head
from mmedge.training.loop.batches import Training
from mmedge.training.loop.feeding import Feed

_SPEC = ImageSpec(kind="image", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CHANGES = Augment(crop=0.08, flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4)
_IMAGES, _BATCH, _SECONDS, _MANY = 2048, 64, 6.0, 100_000
_WORKERS = [0, *range(1, (os.cpu_count() or 1) + 1)]


def rate(batches: Iterator[Any], size: Callable[[Any], int], seconds: float = _SECONDS) -> str:
    """Samples a second, and in brackets a second of processor time, after the first batches, which start the workers."""
    for _ in range(3):
        next(batches)
    began, spent, count = time.perf_counter(), _processor_seconds(), 0
    for batch in batches:
        count += size(batch)
        if time.perf_counter() - began > seconds:
            break
    spent = _processor_seconds() - spent
    return f"{count / (time.perf_counter() - began):,.0f} ({count / max(1e-9, spent):,.0f})"


def _processor_seconds() -> float:
    """Of this process and its children: on a machine that others keep busy, it tells more than the clock."""
    ticks = 0
    for pid in (os.getpid(), *(child.pid for child in torch.multiprocessing.active_children())):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def photographs(folder: Path) -> list[tuple[int, tuple[Any, ...]]]:
    """JPEG files of 640 x 427, as jobs of the store."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(image) for image in load_sample_images().images]
    for row in range(_IMAGES):
        left, top = (int(rng.integers(60)) for _ in range(2))
        name = folder / f"{row}.jpg"
        if not name.exists():
            pictures[row % 2].crop((left, top, left + 580, top + 367)).resize((640, 427)).save(name, quality=87)
    return [(row, (f"{row}.jpg",)) for row in range(_IMAGES)]


def training_of(name: str, rows: Rows, spec: ModalitySpec, augment: dict[str, Augment], workers: int) -> Training:
    """What ``Feed`` makes batches of: one modality, ten classes."""
    contract = Contract(
        modalities={name: spec}, heads={"logits": Head(task="classification", labels=tuple("0123456789"))}
    )
    count = len(rows)
    ids = tuple(map(str, range(count)))
    present, targets = np.ones((count, 1), bool), {"logits": np.arange(count) % 10}
    samples = Samples("train", ids, {name: rows}, present, targets, np.arange(count), contract.heads)
    train = Train(epochs=1000, batch_size=_BATCH, augment=augment, views=1000)
    return Training(contract, samples, samples, train, np.arange(count), 0, 0, reading=Reading(batch_workers=workers))


def fed(training: Training) -> Iterator[Any]:
    """Epoch after epoch, as a model gets it."""
    feed = Feed(training, torch.device("cpu"))
    return (batch for epoch in range(1000) for batch in feed.batches(epoch))


class Plain(Dataset[tuple[Tensor, int]]):
    """What one writes by hand with torch alone: from the same file of pixels, or from JPEG files by Pillow."""

    def __init__(self, pixels: np.ndarray | None, files: list[Path]) -> None:
        self.pixels, self.files = pixels, files
        self.mean, self.std = (torch.tensor(x)[:, None, None] for x in (_SPEC.mean, _SPEC.std))

    def __len__(self) -> int:
        return _IMAGES

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if self.pixels is not None:
            image = torch.from_numpy(np.array(self.pixels[row]))
        else:
            image = opened(self.files[row].read_bytes())
        return self.changed(image), row % 10

    def changed(self, image: Tensor) -> Tensor:
        """uint8 [3, h, w] -> float32 [3, 224, 224], by torchvision's arithmetic."""
        height, width = image.shape[1:]
        area = float(torch.empty(1).uniform_(0.08, 1)) * height * width
        aspect = float(torch.exp(torch.empty(1).uniform_(np.log(3 / 4), np.log(4 / 3))))
        h, w = min(height, round((area / aspect) ** 0.5)), min(width, round((area * aspect) ** 0.5))
        top, left = (int(torch.randint(most + 1, (1,))) for most in (height - h, width - w))
        part = image[None, :, top : top + h, left : left + w]
        image = torch.nn.functional.interpolate(part, (224, 224), mode="bilinear", antialias=True)[0]
        if torch.rand(1) < 0.5:
            image = image.flip(-1)
        x = image.float() / 255
        for part_of in ("brightness", "contrast", "saturation"):
            factor = float(torch.empty(1).uniform_(0.6, 1.4))
            gray = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
            other = {"brightness": torch.zeros(()), "contrast": gray.mean(), "saturation": gray}[part_of]
            x = (factor * x + (1 - factor) * other).clamp(0, 1)
        return (x - self.mean) / self.std


def opened(content: bytes) -> Tensor:
    """A JPEG file's pixels at 224 x 224, as the store has them."""
    from PIL import Image

    picture = Image.open(io.BytesIO(content)).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def plain(dataset: Plain, workers: int) -> Iterator[Any]:
    """Shuffled batches of a plain DataLoader, epoch after epoch."""
    loader: Any = DataLoader(
        dataset, _BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True
    )
    return (batch for _ in range(1000) for batch in loader)


def web(folder: Path, dataset: Plain, workers: int) -> Iterator[Any] | None:
    """The same from tar shards by WebDataset, where that is installed."""
    try:
        import webdataset
    except ImportError:
        return None
    for shard in range(4):
        if not (folder / f"{shard}.tar").exists():
            with tarfile.open(folder / f"{shard}.tar", "w") as tar:
                for row in range(shard, _IMAGES, 4):
                    tar.add(folder / f"{row}.jpg", f"{row}.jpg")
    urls = [str(folder / f"{shard}.tar") for shard in range(4)]

    def sample(found: dict[str, Any]) -> tuple[Tensor, int]:
        return dataset.changed(opened(found["jpg"])), int(found["__key__"]) % 10

    whole = webdataset.WebDataset(urls, shardshuffle=4, nodesplitter=None).shuffle(256).map(sample).batched(_BATCH)
    loader: Any = DataLoader(whole, None, num_workers=workers, persistent_workers=workers > 0)
    return (batch for _ in range(1000) for batch in loader)


def image_table(folder: Path, rows: Rows) -> None:
    """All ways, by workers."""
    (pixels,) = rows.shards.opened()
    files = [folder / f"{row}.jpg" for row in range(_IMAGES)]
    from_store, from_files = Plain(pixels, files), Plain(None, files)
    print("\n| crop, mirror, colours; images/s with so many workers | " + " | ".join(map(str, _WORKERS)) + " |")
    print("| --- " * (len(_WORKERS) + 1) + "|")
    ways: dict[str, Callable[[int], Iterator[Any] | None]] = {
        "**mmedge**, from its store": lambda n: fed(training_of("image", rows, _SPEC, {"image": _CHANGES}, n)),
        "plain DataLoader, from the same file": lambda n: plain(from_store, n),
        "plain DataLoader, from JPEG files": lambda n: plain(from_files, n),
        "WebDataset, from JPEG files in tar shards": lambda n: web(folder, from_files, n),
    }
    for name, way in ways.items():
        cells = []
        for workers in _WORKERS:
            batches = way(workers)
            size = (lambda b: len(b.index)) if "mmedge" in name else (lambda b: len(b[0]))
            cells.append("not installed" if batches is None else rate(batches, size))
        print(f"| {name} | " + " | ".join(cells) + " |")


def change_table(rows: Rows) -> None:
    """Images a second of each change by itself, in one process, reading and normalising along."""
    asked: dict[str, Augment] = {
        "none": Augment(),
        "shift": Augment(shift=8, shift_rows=8),
        "noise": Augment(noise=0.1),
    }
    asked["shift and noise"] = Augment(shift=8, shift_rows=8, noise=0.1)
    values = {
        "crop": 0.08,
        "flip": 0.5,
        "rotate": 15,
        "hue": 0.1,
        "grayscale": 0.2,
        "blur": 2,
        "erase": 0.25,
        "mask": 20,
    }
    asked |= {key: Augment(**{key: value}) for key, value in values.items()}
    asked["brightness, contrast, saturation"] = Augment(brightness=0.4, contrast=0.4, saturation=0.4)
    asked["crop, flip and colours"] = _CHANGES
    asked |= {f"preset {name}": Augment.model_validate(name) for name in ("light", "standard", "strong")}
    _changes("images", rows, asked)


def other_tables(folder: Path) -> None:
    """Sounds, texts, series and tables by the second, of the standard preset."""
    rng = np.random.default_rng(0)
    kinds: dict[str, tuple[ModalitySpec, np.ndarray]] = {
        "sounds of 1 s as log-mel of 64 bands": (
            AudioSpec(kind="audio", mean=(-6.0,), std=(3.0,), frames=98), rng.normal(-6, 3, (512, 1, 64, 98)).astype(np.float32),
        ),
        "sounds of 1 s as waveforms": (
            AudioSpec(kind="audio", features="waveform", length=16000), rng.integers(-9999, 9999, (512, 16000)).astype(np.int16),
        ),
        "texts of 64 tokens": (
            TextSpec(kind="text", length=64, tokens=30000), rng.integers(1, 30000, (4096, 64)).astype(np.uint16),
        ),
        "series of 6 x 256": (
            SensorSpec(kind="sensor", channels=6, length=256, mean=(0.0,), std=(1.0,)), rng.normal(size=(4096, 6, 256)).astype(np.float32),
        ),
        "rows of 32 numbers": (
            TabularSpec(kind="tabular", columns=tuple(f"c{k}" for k in range(32)), mean=(0.0,) * 32, std=(1.0,) * 32),
            rng.normal(size=(4096, 32)).astype(np.float32),
        ),
    }  # fmt: skip
    for name, (spec, values) in kinds.items():
        shards = Shards(folder / name.replace(" ", "-"), values.dtype.name, len(values), spec.shape)
        np.save(shards.files[0][0], values)
        rows = Rows(spec, shards, np.ones(len(values), bool))
        _changes(name, rows, {"none": Augment(), "preset standard": Augment.model_validate("standard")})


def _changes(what: str, rows: Rows, asked: dict[str, Augment]) -> None:
    print(f"\n| change | {what}/s, one process | bytes a sample on the disk |\n| --- | --- | --- |")
    size = int(np.prod(rows.shards.shape)) * np.dtype(rows.shards.form).itemsize
    for name, augment in asked.items():
        made = _views(rows, resolved({"x": augment}, {"x": rows.spec})["x"])
        print(f"| {name} | {rate(made, len, 2.0)} | {size:,} |")


def _views(rows: Rows, change: Augment) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    while True:
        index = rng.integers(len(rows), size=_BATCH)
        yield augmented(rows, index, change, Chance(0, 0, index, len(rows)))


def decoding_table(folder: Path, jobs: Any) -> None:
    """Photographs into the store, by workers."""
    print("\n| photographs of 640 x 427 into the store, workers | " + " | ".join(map(str, _WORKERS[1:])) + " |")
    print("| --- " * len(_WORKERS) + "|")
    cells = []
    for workers in _WORKERS[1:]:
        began = time.perf_counter()
        decode(Modality("image", _SPEC, folder), jobs, len(jobs), folder / "again", workers=workers, progress=Silent())
        cells.append(f"{len(jobs) / (time.perf_counter() - began):,.0f}")
    print("| photographs/s | " + " | ".join(cells) + " |")


def memory(folder: Path) -> None:
    """Resident memory of this process along an epoch of many images, and of what its workers have of their own."""
    shards = Shards(folder / "many", "uint8", _MANY, _SPEC.shape)
    for file, count in shards.files:  # holes: nothing is written
        np.lib.format.open_memmap(file, "w+", np.uint8, (count, *_SPEC.shape))
    rows = Rows(_SPEC, shards, np.ones(_MANY, bool))
    for workers in (0, 2):
        feed = Feed(training_of("image", rows, _SPEC, {"image": Augment(flip=0.5)}, workers), torch.device("cpu"))
        seen, seconds = [], time.perf_counter()
        for number, _ in enumerate(feed.batches(0)):
            if number in (100, _MANY // _BATCH // 2, _MANY // _BATCH - 2):
                seen.append(_own_bytes() / 1e6)
        took = time.perf_counter() - seconds
        told = " MB, ".join(f"{each:,.0f}" for each in seen)
        print(
            f"\n{_MANY:,} images, {workers} workers: {told} MB of its own after 100 batches, half and all; {took:.0f} s"
        )


_FIRST = """
import json, resource, sys, time
from pathlib import Path
import torch
from mmedge import recipe
from mmedge.data.store import samples
from mmedge.progress import Silent
from mmedge.training.loop.batches import Training
from mmedge.training.loop.feeding import Feed
import numpy as np
began, path = time.monotonic(), Path(sys.argv[1])
read = recipe.load(path)
data = samples.prepare(read, path.parent / "out", code=path.parent, progress=Silent())
prepared = time.monotonic() - began
feed = Feed(Training(data.contract, data.train, data.validation, read.teacher.train, np.arange(len(data.train)), 0, 0), torch.device("cpu"))
batch = next(feed.batches(0))
print(json.dumps({"rows": len(data.train), "prepared": prepared, "first": time.monotonic() - began,
                  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "shape": list(batch.inputs["image"].shape)}))
"""


def first_batch(folder: Path, rows: int = 1_000_000) -> None:
    """Seconds and memory from the start to the first batch, of a manifest of a million rows of photographs and numbers."""
    import polars

    index = polars.int_range(0, rows, eager=True)
    table = polars.DataFrame(
        {
            "image": polars.select(polars.format("{}.jpg", index % _IMAGES)).to_series(),
            "a": (index * 7 % 1013).cast(polars.Float64) / 3,
            "label": polars.select(polars.format("class {}", index % 10)).to_series(),
            "split": polars.select(
                polars.when(index % 50 == 0).then(polars.lit("test")).when(index % 50 == 1)
                .then(polars.lit("validation")).otherwise(polars.lit("train"))
            ).to_series(),
        }
    )  # fmt: skip
    table.write_csv(folder / "million.csv")
    modalities = {"image": {"kind": "image"}, "numbers": {"kind": "tabular", "columns": ["a"]}}
    data = {"manifest": "million.csv", "split": "split", "stream": True, "modalities": modalities}
    train = {"train": {"augment": {"image": "standard"}, "batch_size": _BATCH}}
    (folder / "million.yaml").write_text(json.dumps({"schema": 1, "name": "million", "data": data, "teacher": train}))
    done = subprocess.run(
        [sys.executable, "-c", _FIRST, str(folder / "million.yaml")], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    print(
        f"\n1,000,000 rows, streamed: prepared in {told['prepared']:.0f} s, first batch of {told['shape']} after"
        f" {told['first']:.0f} s, peak memory {told['peak_mib']:,.0f} MiB"
    )


def _own_bytes() -> float:
    """Memory that is no file's, of this process and its children (what they share counts in each)."""
    found = 0
    for pid in (os.getpid(), *(child.pid for child in torch.multiprocessing.active_children())):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                found += int(line.split()[1]) * 1024
    return found or resident_bytes() or 0


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 and Path(sys.argv[1]).is_dir() else name)
        print(f"{os.cpu_count()} cores, torch {torch.__version__}")
        jobs = photographs(folder)
        shards, _ = decode(
            Modality("image", _SPEC, folder), jobs, len(jobs), folder / "store", workers=None, progress=Silent()
        )
        size = sum((folder / f"{row}.jpg").stat().st_size for row in range(_IMAGES)) / _IMAGES
        kept = sum(file.stat().st_size for file, _ in shards.files) / _IMAGES
        print(f"bytes an image: {kept:,.0f} in the store, {size:,.0f} as JPEG")
        rows = Rows(_SPEC, shards, np.ones(_IMAGES, bool))
        decoding_table(folder, jobs)
        image_table(folder, rows)
        change_table(rows)
        other_tables(folder)
        first_batch(folder)
        memory(folder)


if __name__ == "__main__":
    main()
