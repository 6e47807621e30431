"""How often a comparison calls one of two identical models faster: at most 5 of 100 by the interval of 95 %, 2.5 by chance.

Two files of one graph that differ in a comment alone, so that they are not known to be one: both are opened, timed and
judged as any two models are."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from mmedge.measure.latency import ratios_to
from mmedge.progress import Silent
from mmedge.recipe import Measure
from tests.small import write_graph


def main(comparisons: int = 100, runs: int = 500) -> None:
    """Prints the count of "faster" and of "slower", for a small graph and a larger one, and how wide the intervals were."""
    random = np.random.default_rng(0)
    feed = {"image": random.standard_normal((1, 1, 8, 8)).astype(np.float32), "vitals": np.ones((1, 3), np.float32)}
    feed["present"] = np.ones((1, 2), bool)
    for channels in (16, 96):
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = Path(folder) / "ours.onnx", Path(folder) / "theirs.onnx"
            write_graph(ours, channels=channels)
            model = onnx.load(ours)
            model.doc_string = "the same"
            onnx.save(model, theirs)
            found = [
                ratios_to(theirs, {"ours": ours}, feed, Measure(runs=runs), Silent())["ours"]
                for _ in range(comparisons)
            ]
        faster, slower = sum(ratio.faster for ratio in found), sum(ratio.low > 1 for ratio in found)
        width = float(np.median([ratio.high - ratio.low for ratio in found]))
        print(f"{channels:4} channels: faster {faster}, slower {slower} of {comparisons}; interval {width:.3f} wide")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
