"""Speed of the data: a manifest of a million rows, decoding and its scaling with workers, reading cached samples.

`python -m tests.benchmarks.data_speed` prints one JSON document; nothing is asserted about time, since machines differ.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.data.store import samples
from mmedge.progress import Silent
from tests.data.made import MODALITIES, five_kinds, parsed, recipe_values

_MILLION = """
import json, resource, sys, time
from pathlib import Path
from mmedge import recipe
from mmedge.pipeline.check import check
from mmedge.progress import Silent
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.monotonic()
card = check(recipe.load(Path(sys.argv[1])), Path(sys.argv[1]).parent / "out", code=Path("."), progress=Silent(), media=False).record()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.monotonic() - began, "peak_mib": peak / 1024, "imports_mib": before / 1024,
                  "rows": sum(s["samples"] for s in card["splits"].values()), "errors": card["errors"],
                  "faults": card["faults"][:3]}))
"""


def million_rows(folder: Path, rows: int = 1_000_000) -> dict[str, Any]:
    """Validate a manifest of ``rows`` rows of an image, a text, numbers and groups in a process of its own."""
    import polars

    (folder / "files").mkdir(parents=True)
    for number in range(1000):
        (folder / f"files/{number}.png").write_bytes(b"never opened")
    index = polars.int_range(0, rows, eager=True)
    table = polars.DataFrame(
        {
            "image": polars.select(polars.format("files/{}.png", index % 1000)).to_series(),
            "text": polars.select(polars.format("a sentence about sample number {} and its kind", index)).to_series(),
            "a": (index * 7 % 1013).cast(polars.Float64) / 3,
            "b": index * 11 % 977,
            "who": polars.select(polars.format("person {}", index // 20)).to_series(),
            "label": polars.select(polars.format("class {}", index % 10)).to_series(),
        }
    )
    table.write_csv(folder / "m.csv")
    recipe = {
        "schema": 1,
        "name": "million",
        "data": {
            "manifest": "m.csv",
            "group": "who",
            "modalities": {
                "image": {"kind": "image"},
                "text": {"kind": "text"},
                "numbers": {"kind": "tabular", "columns": ["a", "b"]},
            },
        },
    }
    (folder / "m.yaml").write_text(json.dumps(recipe))
    done = subprocess.run(
        [sys.executable, "-c", _MILLION, str(folder / "m.yaml")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout)


def decoding(folder: Path, rows: int = 2000, photographs: int = 1500) -> dict[str, Any]:
    """Samples per second of decode and preprocess: small files of each kind, and photographs of 640 x 427 by workers."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from mmedge.data.manifest.source import arranged
    from mmedge.data.store.decode import Modality, decode
    from mmedge.data.store.tensors import fit_vocabulary, jobs_of
    from mmedge.spec import ImageSpec

    data = parsed(recipe_values(five_kinds(folder, rows, holes=False))).data
    table, _ = arranged(data, 0)
    out: dict[str, Any] = {}

    def timed(said: str, spec: Any, name: str, jobs: Any, workers: int) -> None:
        began = time.monotonic()
        decode(
            Modality(name, spec, folder), jobs, len(jobs), folder / "decoded.npy", workers=workers, progress=Silent()
        )
        out[said] = round(len(jobs) / (time.monotonic() - began))

    for name, spec in data.modalities.items():
        fitted = fit_vocabulary(name, spec, table, folder)
        timed(name, fitted, name, jobs_of(name, fitted, table), 1)
    for number, photograph in enumerate(load_sample_images().images):
        Image.fromarray(photograph).save(folder / f"{number}.jpg")
    spec = ImageSpec(kind="image", height=224, width=224)
    jobs = [(row, (f"{row % 2}.jpg",)) for row in range(photographs)]
    for workers in (1, 2, 4):
        timed(f"photographs, {workers} workers", spec, "image", jobs, workers)
    return {"rows": rows, "photographs": photographs, "samples_per_second": out}


def cached(folder: Path) -> dict[str, Any]:
    """Microseconds to read a batch of 64 cached samples of all five modalities."""
    recipe = parsed(recipe_values(five_kinds(folder, 400, holes=False)))
    dataset = samples.prepare(recipe, folder / "out", code=folder, progress=Silent())
    rng = np.random.default_rng(0)
    rows = [rng.integers(len(dataset.train), size=64) for _ in range(500)]
    began = time.monotonic()
    for index in rows:
        for name in MODALITIES:
            dataset.train.inputs[name][index]
    return {"us_a_batch_of_64": round((time.monotonic() - began) / len(rows) * 1e6, 1)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = {
            "cores": os.cpu_count(),
            "million_rows": million_rows(Path(folder) / "million"),
            "decoding": decoding(Path(folder) / "decoding"),
            "cached": cached(Path(folder) / "cached"),
        }
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
