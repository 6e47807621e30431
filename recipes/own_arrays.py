"""Writes the arrays that a graph is fed with, and their labels: what `mmedge quantize model.onnx --data` takes.

    python recipes/own_arrays.py runs/demo runs/arrays.npz

Here they come from the demo's validation pairs, through its bundle's preprocessing; yours come from wherever your model's
inputs do. An array an input, a sample a row; `labels` are indices of the output's classes.
"""

import csv
import sys
from pathlib import Path

import numpy as np

import mmedge.runtime


def main(demo: Path, target: Path) -> None:
    engine = mmedge.runtime.load(demo / "bundle")
    with (demo / "data" / "validation.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    samples = [{name: str(demo / "data" / row[name]) for name in ("image", "audio")} for row in rows]
    labels = [engine.contract.labels.index(row["label"]) for row in rows]
    np.savez(target, **engine.preprocess(samples), labels=labels)
    print(f"{target}: {len(rows)} samples")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
