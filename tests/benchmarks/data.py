"""Feeding a model at real size: samples a second by stage and by workers, beside a plain DataLoader and WebDataset.

`python -m tests.benchmarks.data [FOLDER] [PIECE ...]` (``make bench-data``) measures in pieces, each a JSON in
FOLDER/figures, and prints the tables of all that are there: what was interrupted goes on, and a piece whose file is deleted,
or that is named, is measured again. Images are of 3 x 224 x 224, from photographs of 640 x 427; all ways do the same: a random
resized crop, a mirror, brightness, contrast and saturation, normalisation. Memory is that of an epoch of 100,000 samples, of
a file with holes, so that no disk has to hold 15 GB.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmedge.artifact import replacing
from mmedge.contract import Contract
from mmedge.data.augment import augmented, resolved
from mmedge.data.augment.chance import Chance
from mmedge.data.store.decode import Modality, decode
from mmedge.data.store.rows import Reading, Rows, Shards
from mmedge.data.store.samples import Samples
from mmedge.machine import machine, resident_bytes
from mmedge.progress import Silent
from mmedge.recipe import Augment, Train
from mmedge.recipe.augment import changes_of
from mmedge.spec import AudioSpec, ImageSpec, ModalitySpec, SensorSpec, TabularSpec, TextSpec
from mmedge.tasks import Head
from mmedge.training.loop.batches import Training
from mmedge.training.loop.feeding import Feed
from tests.benchmarks.plain_loaders import BATCH, IMAGES, MEAN, STD, Plain, plain, web

# {row of a table: {column: cell}}
Figures = dict[str, dict[str, str]]
_SPEC = ImageSpec(kind="image", mean=MEAN, std=STD)
_CHANGES = Augment(crop=0.08, flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4)
_SECONDS, _MANY = 4.0, 100_000
_DECODED = 512
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


def _family() -> list[int]:
    """This process and its children."""
    found, own = [os.getpid()], str(os.getpid())
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            if stat.read_text().rpartition(")")[2].split()[1] == own:
                found.append(int(stat.parent.name))
    return found


def _processor_seconds() -> float:
    """Of this process and its children: on a machine that others keep busy, it tells more than the clock."""
    ticks = 0
    for pid in _family():
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def photographs(folder: Path) -> list[tuple[int, tuple[Any, ...]]]:
    """JPEG files of 640 x 427, as jobs of the store."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(image) for image in load_sample_images().images]
    for row in range(IMAGES):
        left, top = (int(rng.integers(60)) for _ in range(2))
        name = folder / f"{row}.jpg"
        if not name.exists():
            pictures[row % 2].crop((left, top, left + 580, top + 367)).resize((640, 427)).save(name, quality=87)
    return [(row, (f"{row}.jpg",)) for row in range(IMAGES)]


def training_of(name: str, rows: Rows, spec: ModalitySpec, augment: dict[str, Augment], workers: int) -> Training:
    """What ``Feed`` makes batches of: one modality, ten classes."""
    contract = Contract(
        modalities={name: spec}, heads={"logits": Head(task="classification", labels=tuple("0123456789"))}
    )
    count = len(rows)
    ids = tuple(map(str, range(count)))
    present, targets = np.ones((count, 1), bool), {"logits": np.arange(count) % 10}
    samples = Samples("train", ids, {name: rows}, present, targets, np.arange(count), contract.heads)
    train = Train(epochs=1000, batch_size=BATCH, augment=augment, views=1000)
    return Training(contract, samples, samples, train, np.arange(count), 0, 0, reading=Reading(batch_workers=workers))


def fed(training: Training) -> Iterator[Any]:
    """Epoch after epoch, as a model gets it."""
    with closing(Feed(training, torch.device("cpu"))) as feed:
        for epoch in range(1000):
            yield from feed.batches(epoch)


def stored(folder: Path) -> Rows:
    """The photographs in the store, decoded unless they are there."""
    photographs(folder)
    shards = Shards(folder / "store", "uint8", IMAGES, _SPEC.shape)
    if not shards.whole():
        jobs = [(row, (f"{row}.jpg",)) for row in range(IMAGES)]
        decode(Modality("image", _SPEC, folder), jobs, len(jobs), folder / "store", workers=None, progress=Silent())
    return Rows(_SPEC, shards, np.ones(IMAGES, bool))


def way(name: str, folder: Path) -> Figures:
    """One way to make batches of images, by workers."""
    rows = stored(folder)
    (pixels,) = rows.shards.opened()
    files = [folder / f"{row}.jpg" for row in range(IMAGES)]
    before = Augment(shift=8, shift_rows=8, noise=0.1)
    cells = {}
    for workers in _WORKERS:
        batches: Iterator[Any] | None = {
            "mmedge, from its store": lambda n: fed(training_of("image", rows, _SPEC, {"image": _CHANGES}, n)),
            "plain DataLoader, from the same file": lambda n: plain(Plain(pixels, files), n),
            "plain DataLoader, from JPEG files": lambda n: plain(Plain(None, files), n),
            "WebDataset, from JPEG files in tar shards": lambda n: web(folder, Plain(None, files), n),
            "mmedge, shift and noise (all there was in 0.1.0)": lambda n: fed(
                training_of("image", rows, _SPEC, {"image": before}, n)
            ),
        }[name](workers)
        size = (lambda b: len(b.index)) if "mmedge" in name else (lambda b: len(b[0]))
        cells[f"{workers} workers"] = "not installed" if batches is None else rate(batches, size)
        del batches  # its processes end
    return {name: cells}


WAYS = (
    "mmedge, from its store",
    "plain DataLoader, from the same file",
    "plain DataLoader, from JPEG files",
    "WebDataset, from JPEG files in tar shards",
    "mmedge, shift and noise (all there was in 0.1.0)",
)


def image_changes(folder: Path) -> Figures:
    """Images a second of each change by itself, in one process, reading and normalising along."""
    asked: dict[str, Augment] = {"none": Augment(), "shift": Augment(shift=8, shift_rows=8)}
    asked |= {"noise": Augment(noise=0.1), "shift and noise": Augment(shift=8, shift_rows=8, noise=0.1)}
    values = {
        "crop": 0.08,
        "flip": 0.5,
        "rotate": 15,
        "hue": 0.1,
        "grayscale": 0.2,
        "blur": 2,
        "erase": 0.25,
        "trivial": 1,
    }
    asked |= {key: Augment(**{key: value}) for key, value in {**values, "mask": 20}.items()}
    asked["brightness, contrast, saturation"] = Augment(brightness=0.4, contrast=0.4, saturation=0.4)
    asked["crop, flip and colours"] = _CHANGES
    asked |= {f"preset {name}": Augment.model_validate(name) for name in ("light", "standard", "strong")}
    return _changes(stored(folder), asked)


_KINDS: dict[str, Callable[[np.random.Generator], tuple[ModalitySpec, np.ndarray]]] = {
    "sounds of 1 s as log-mel of 64 bands": lambda rng: (
        AudioSpec(kind="audio", mean=(-6.0,), std=(3.0,), frames=98), rng.normal(-6, 3, (512, 1, 64, 98)).astype(np.float32),
    ),
    "sounds of 1 s as waveforms": lambda rng: (
        AudioSpec(kind="audio", features="waveform", length=16000), rng.integers(-9999, 9999, (512, 16000)).astype(np.int16),
    ),
    "texts of 64 tokens": lambda rng: (
        TextSpec(kind="text", length=64, tokens=30000), rng.integers(1, 30000, (4096, 64)).astype(np.uint16),
    ),
    "series of 6 x 256": lambda rng: (
        SensorSpec(kind="sensor", channels=6, length=256, mean=(0.0,), std=(1.0,)), rng.normal(size=(4096, 6, 256)).astype(np.float32),
    ),
    "rows of 32 numbers": lambda rng: (
        TabularSpec(kind="tabular", columns=tuple(f"c{k}" for k in range(32)), mean=(0.0,) * 32, std=(1.0,) * 32),
        rng.normal(size=(4096, 32)).astype(np.float32),
    ),
}  # fmt: skip


def kind_changes(name: str, folder: Path) -> Figures:
    """Samples of one kind by the second, of each of its changes that is of its own and of the standard preset."""
    spec, values = _KINDS[name](np.random.default_rng(0))
    shards = Shards(folder / name.replace(" ", "-"), values.dtype.name, len(values), spec.shape)
    np.save(shards.files[0][0], values)
    rows = Rows(spec, shards, np.ones(len(values), bool))
    asked = {"none": Augment(), "preset standard": Augment.model_validate("standard")}
    asked |= {key: Augment(**{key: value}) for key, value in _OWN.items() if key in changes_of(spec)}
    return {f"{name}: {change}": cells for change, cells in _changes(rows, asked).items()}


# Changes of sounds, texts, series and tables.
_OWN: dict[str, Any] = {
    "gain": 6,
    "snr": (5, 20),
    "pitch": 2,
    "speed": 0.1,
    "room": 1,
    "token_dropout": 0.1,
    "swap": 0.1,
    "scaling": 0.1,
    "rotate_axes": 20,
}
_OWN |= {"time_warp": 0.1, "channel_drop": 0.1, "column_drop": 0.1}


def _changes(rows: Rows, asked: dict[str, Augment]) -> Figures:
    size, found = int(np.prod(rows.shards.shape)) * np.dtype(rows.shards.form).itemsize, {}
    for name, augment in asked.items():
        made = _views(rows, resolved({"x": augment}, {"x": rows.spec})["x"])
        found[name] = {"samples/s": rate(made, len, 1.0), "bytes a sample on the disk": f"{size:,}"}
    return found


def _views(rows: Rows, change: Augment) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    while True:
        index = rng.integers(len(rows), size=BATCH)
        yield augmented(rows, index, change, Chance(0, 0, index, len(rows)))


def decoding(folder: Path) -> Figures:
    """Photographs into the store, by workers."""
    jobs, cells = photographs(folder)[:_DECODED], {}
    for workers in _WORKERS[1:]:
        began = time.perf_counter()
        decode(Modality("image", _SPEC, folder), jobs, len(jobs), folder / "again", workers=workers, progress=Silent())
        cells[f"{workers} workers"] = f"{len(jobs) / (time.perf_counter() - began):,.0f}"
    size = sum((folder / f"{row}.jpg").stat().st_size for row in range(IMAGES)) / IMAGES
    kept = sum(file.stat().st_size for file, _ in stored(folder).shards.files) / IMAGES
    return {"photographs/s": {**cells, "bytes in the store": f"{kept:,.0f}", "bytes as JPEG": f"{size:,.0f}"}}


def memory(workers: int, folder: Path) -> Figures:
    """Memory of this process and its workers that is no file's, along an epoch of many images."""
    shards = Shards(folder / "many", "uint8", _MANY, _SPEC.shape)
    if not shards.whole():
        for file, count in shards.files:  # holes: nothing is written
            np.lib.format.open_memmap(file, "w+", np.uint8, (count, *_SPEC.shape))
    rows = Rows(_SPEC, shards, np.ones(_MANY, bool))
    seen, began = {}, time.perf_counter()
    places = {100: "MB after 100 batches", _MANY // BATCH // 2: "half", _MANY // BATCH - 2: "all"}
    training = training_of("image", rows, _SPEC, {"image": Augment(flip=0.5)}, workers)
    with closing(Feed(training, torch.device("cpu"))) as feed:
        for number, _ in enumerate(feed.batches(0)):
            if number in places:
                seen[places[number]] = f"{_own_bytes() / 1e6:,.0f}"
            if number % 200 == 0:
                print(f"  {number * BATCH:,} of {_MANY:,} images", file=sys.stderr, flush=True)
    return {f"{_MANY:,} images, {workers} workers": {**seen, "seconds": f"{time.perf_counter() - began:.0f}"}}


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
                  "cpu": time.process_time(), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "shape": list(batch.inputs["image"].shape)}))
"""


def first_batch(folder: Path, rows: int = 1_000_000) -> Figures:
    """Seconds and memory from the start to the first batch, of a manifest of a million rows of photographs and numbers."""
    import polars

    photographs(folder)
    shutil.rmtree(folder / "out", ignore_errors=True)
    index = polars.int_range(0, rows, eager=True)
    table = polars.DataFrame(
        {
            "image": polars.select(polars.format("{}.jpg", index % IMAGES)).to_series(),
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
    train = {"train": {"augment": {"image": "standard"}, "batch_size": BATCH}}
    (folder / "million.yaml").write_text(json.dumps({"schema": 1, "name": "million", "data": data, "teacher": train}))
    done = subprocess.run(
        [sys.executable, "-c", _FIRST, str(folder / "million.yaml")], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    return {
        f"{rows:,} rows, streamed": {
            "prepared after, s": f"{told['prepared']:.0f}",
            "first batch after, s": f"{told['first']:.0f}",
            "s of processor time": f"{told['cpu']:.0f}",
            "peak MiB": f"{told['peak_mib']:,.0f}",
        }
    }


def _own_bytes() -> float:
    """Memory that is no file's, of this process and its children (what they share counts in each)."""
    found = 0
    for pid in _family():
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    found += int(line.split()[1]) * 1024
    return found or resident_bytes() or 0


# Table -> its pieces, each by itself some seconds long (memory and the first batch longer).
TABLES: dict[str, dict[str, Callable[[Path], Figures]]] = {
    "photographs of 640 x 427 into the store": {"decoding": decoding},
    "crop, mirror, colours: images/s (a second of processor time)": {
        f"way-{number}": partial(way, name) for number, name in enumerate(WAYS)
    },
    "one change of images, one process (a second of processor time)": {"images": image_changes},
    "one change of other kinds, one process (a second of processor time)": {
        f"kind-{number}": partial(kind_changes, name) for number, name in enumerate(_KINDS)
    },
    "first batch": {"first-batch": first_batch},
    "memory along an epoch": {f"memory-{workers}": partial(memory, workers) for workers in (0, 2)},
}


def table(title: str, figures: Figures) -> str:
    """Rows of figures as Markdown."""
    columns = list(dict.fromkeys(column for cells in figures.values() for column in cells))
    lines = [[title, *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(cells.get(column, "") for column in columns)] for name, cells in figures.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(folder: Path, name: str, piece: Callable[[Path], Figures], *, again: bool) -> Figures:
    """A piece's figures, from its file where it has one."""
    file = folder / "figures" / f"{name}.json"
    if again or not file.exists():
        began = time.perf_counter()
        print(f"{name} ...", file=sys.stderr, flush=True)
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(piece(folder), indent=1))
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    found: Figures = json.loads(file.read_text())
    return found


def main() -> None:
    torch.set_num_threads(1)
    folder, *named = [*map(Path, sys.argv[1:2]), *sys.argv[2:]] or [Path(tempfile.mkdtemp())]
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    known = [name for pieces in TABLES.values() for name in pieces]
    if strange := set(named) - set(known):
        raise SystemExit(f"no piece {', '.join(map(str, strange))}; there are {', '.join(known)}")
    print(f"{os.cpu_count()} cores, {machine().cpu}, torch {torch.__version__}")
    for title, pieces in TABLES.items():
        found: Figures = {}
        for name, piece in pieces.items():
            if not named or name in named or (folder / "figures" / f"{name}.json").exists():
                found |= measured(folder, name, piece, again=name in named)
        if found:
            print(f"\n{table(title, found)}", flush=True)


if __name__ == "__main__":
    main()
