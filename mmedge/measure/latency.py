"""Latency of models, all of them in one interleaved run, so that their ratios hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.backends.session import Session
from mmedge.data.store.samples import Samples
from mmedge.profiling.timing import Timing, ratio_interval, spans, summary
from mmedge.progress import Progress
from mmedge.recipe import Measure

_FEWEST_RUNS = 40


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
    return {name: summary(times) for name, times in _spans(sessions, common, measure, progress, own).items()}


@dataclass(frozen=True)
class Ratio:
    """One model's median latency over another's of the same interleaved run, with its 95 % interval."""

    value: float
    low: float
    high: float
    ours_ms: float
    theirs_ms: float

    @property
    def faster(self) -> bool:
        """Whether the first is faster than the second beyond the noise of the run."""
        return self.high < 1

    def record(self) -> dict[str, float]:
        return asdict(self)


def ratios_to(
    reference: Path,
    graphs: Mapping[str, Path],
    inputs: Mapping[str, np.ndarray],
    measure: Measure,
    progress: Progress,
    *,
    longest_s: float = 30.0,
) -> dict[str, Ratio]:
    """{name: the graph's latency over that of ``reference``} on ONNX Runtime CPU, all in one interleaved run.

    ``measure.runs`` rounds, fewer where they would take longer than ``longest_s``.
    """
    named = {"reference": reference, **{f"graph {name}": graph for name, graph in graphs.items()}}
    sessions = {name: onnxruntime_cpu.session(graph, threads=measure.threads) for name, graph in named.items()}
    first = _spans(sessions, inputs, measure.model_copy(update={"runs": 20, "warmup": 1}), progress)
    round_s = sum(float(np.median(times)) for times in first.values()) / 1e9
    runs = max(_FEWEST_RUNS, min(measure.runs, int(longest_s / round_s)))
    times = _spans(sessions, inputs, measure.model_copy(update={"runs": runs}), progress)
    theirs = times["reference"]
    found = {}
    for name in graphs:
        ours = times[f"graph {name}"]
        ours_ms, theirs_ms = float(np.median(ours)) / 1e6, float(np.median(theirs)) / 1e6
        found[name] = Ratio(ours_ms / theirs_ms, *ratio_interval(ours, theirs), ours_ms, theirs_ms)
    return found


def _spans(
    sessions: Mapping[str, Session],
    common: Mapping[str, np.ndarray],
    measure: Measure,
    progress: Progress,
    own: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> dict[str, np.ndarray]:
    calls = {}
    for name, session in sessions.items():
        inputs = (own or {}).get(name, common)
        feed = {
            taken: inputs[taken][:, : info.shape[1]] if taken == "present" else inputs[taken]
            for taken, info in session.inputs.items()
        }
        calls[name] = lambda run=session.run, feed=feed: run(feed)
    return spans(
        calls,
        runs=measure.runs,
        warmup=measure.warmup,
        step=lambda done, total: progress.step("measuring latency", done, total, f"{len(calls)} models in turn"),
    )
