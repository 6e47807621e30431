"""Latency of models, all of them in one interleaved run, so that their ratios hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmedge.data.samples import Samples
from mmedge.progress import Progress
from mmedge.recipe import Measure
from mmedge.runtime.targets import onnxruntime_cpu
from mmedge.runtime.targets.session import Session
from mmedge.runtime.timing import Timing, interleaved


def one_sample(samples: Samples, batch: int) -> dict[str, np.ndarray]:
    """The first ``batch`` real samples as a graph's inputs, everything present."""
    rows = np.arange(batch) % len(samples)
    return {
        **{name: np.array(x[rows]) for name, x in samples.inputs.items()},
        "present": np.ones((batch, len(samples.inputs)), bool),
    }


def time_graphs(
    graphs: Mapping[str, Path],
    inputs: Mapping[str, np.ndarray],
    measure: Measure,
    progress: Progress,
    own: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> dict[str, Timing]:
    """Time each graph on ONNX Runtime CPU; see ``time_sessions``."""
    sessions = {name: onnxruntime_cpu.session(graph, threads=measure.threads) for name, graph in graphs.items()}
    return time_sessions(sessions, inputs, measure, progress, own)


def time_sessions(
    sessions: Mapping[str, Session],
    common: Mapping[str, np.ndarray],
    measure: Measure,
    progress: Progress,
    own: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> dict[str, Timing]:
    """Time opened models in one interleaved run, each on those of the ``common`` inputs that it takes, or on its ``own``.

    ``present`` is cut to the columns that a model with fewer modalities has.
    """
    calls = {}
    for name, session in sessions.items():
        inputs = (own or {}).get(name, common)
        feed = {
            taken: inputs[taken][:, : info.shape[1]] if taken == "present" else inputs[taken]
            for taken, info in session.inputs.items()
        }
        calls[name] = lambda run=session.run, feed=feed: run(feed)
    return interleaved(
        calls,
        runs=measure.runs,
        warmup=measure.warmup,
        step=lambda done, total: progress.step("measuring latency", done, total, f"{len(calls)} models in turn"),
    )
