"""Latency of ONNX graphs on ONNX Runtime CPU: all of them in one interleaved run, so that their ratios hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmedge.data.samples import Samples
from mmedge.progress import Progress
from mmedge.recipe import Measure
from mmedge.runtime.targets import onnxruntime_cpu
from mmedge.runtime.timing import Timing, interleaved


def one_sample(samples: Samples, batch: int) -> dict[str, np.ndarray]:
    """The first ``batch`` real samples as a graph's inputs, everything present."""
    rows = np.arange(batch) % len(samples)
    return {
        **{name: np.array(x[rows]) for name, x in samples.inputs.items()},
        "present": np.ones((batch, len(samples.inputs)), bool),
    }


def time_graphs(
    graphs: Mapping[str, Path], inputs: Mapping[str, np.ndarray], measure: Measure, progress: Progress
) -> dict[str, Timing]:
    """Time the bare ``InferenceSession.run`` of each graph on the inputs that it takes.

    ``present`` is cut to the columns that a graph with fewer modalities has.
    """
    calls = {}
    for name, graph in graphs.items():
        native = onnxruntime_cpu.native_session(graph, threads=measure.threads)
        feed = {}
        for taken in native.get_inputs():
            feed[taken.name] = (
                inputs[taken.name][:, : taken.shape[1]] if taken.name == "present" else inputs[taken.name]
            )
        calls[name] = lambda native=native, feed=feed: native.run(None, feed)
    return interleaved(
        calls,
        runs=measure.runs,
        warmup=measure.warmup,
        step=lambda done, total: progress.step("measuring latency", done, total, f"{len(calls)} graphs in turn"),
    )
