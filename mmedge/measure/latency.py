"""Latency of models, all of them in one interleaved run, so that their ratios hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import Session, onnxruntime_cpu
from mmedge.backends.onnxfile import content_sha256
from mmedge.contract import Contract
from mmedge.data.store.samples import Dataset, Samples
from mmedge.profiling.timing import (
    PERCENTILES,
    Sittings,
    Timing,
    median_ns,
    percentile_ns,
    ratio_interval,
    sittings,
    spans,
    summary,
)
from mmedge.progress import Progress
from mmedge.recipe import Measure

_FEWEST_RUNS = 40

Opener = Callable[[], Session]


def one_sample(samples: Samples, batch: int) -> dict[str, np.ndarray]:
    """The first ``batch`` real samples as a graph's inputs, everything present."""
    rows = np.arange(batch) % len(samples)
    return {
        **{name: np.array(x[rows]) for name, x in samples.inputs.items()},
        "present": np.ones((batch, len(samples.inputs)), bool),
    }


def own_samples(
    contracts: Mapping[str, Contract], dataset: Dataset, batch: int, progress: Progress
) -> dict[str, dict[str, np.ndarray]]:
    """{name: ``one_sample``} of the models that preprocess otherwise than the data, as a pretrained teacher may."""
    common = dataset.contract.modalities
    other = {
        name: contract.modalities
        for name, contract in contracts.items()
        if any(spec != common[modality] for modality, spec in contract.modalities.items())
    }
    return {name: one_sample(dataset.preprocessed(specs, progress).test, batch) for name, specs in other.items()}


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


@dataclass(frozen=True)
class Latencies:
    """What models took in one interleaved run. Those that are one file share one entry."""

    spans: Mapping[str, Sittings]

    def __contains__(self, name: object) -> bool:
        return name in self.spans

    def timing(self, name: str) -> Timing:
        """One model's percentiles."""
        return summary(self.spans[name])

    def ratio(self, ours: str, theirs: str) -> Ratio:
        """One model's median over another's."""
        ours_ms, theirs_ms = (median_ns(self.spans[name]) / 1e6 for name in (ours, theirs))
        low, high = ratio_interval(self.spans[ours], self.spans[theirs])
        return Ratio(ours_ms / theirs_ms, low, high, ours_ms, theirs_ms)


def ratio_figures(taken: Latencies, ours: str, theirs: str, name: str) -> dict[str, Any]:
    """What a report has of ``ours`` over ``theirs``, there called ``name``: the ratio of medians, p95 and p99, with intervals."""
    ratio = taken.ratio(ours, theirs)
    found: dict[str, Any] = {f"ratio_to_{name}": ratio.value, f"ratio_to_{name}_ci95": (ratio.low, ratio.high)}
    for percent in PERCENTILES[1:]:
        pair = taken.spans[ours], taken.spans[theirs]
        found[f"p{percent}_ratio_to_{name}"] = percentile_ns(pair[0], percent) / percentile_ns(pair[1], percent)
        found[f"p{percent}_ratio_to_{name}_ci95"] = ratio_interval(*pair, percent)
    return found


def time_graphs(
    graphs: Mapping[str, Path],
    inputs: Mapping[str, np.ndarray],
    measure: Measure,
    progress: Progress,
    own: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    others: Mapping[str, Opener] | None = None,
) -> Latencies:
    """Time each graph on ONNX Runtime CPU; see ``time_sessions``. Graphs that are one file are timed once.

    ``own``: {name: its inputs} of those that take others; ``others``: models that are no graphs, in the same run.
    """
    first: dict[tuple[str, int], str] = {}  # {content and inputs: the name that stands for all of them}
    stands = {
        name: first.setdefault((content_sha256(graph), id((own or {}).get(name, inputs))), name)
        for name, graph in graphs.items()
    }
    openers = {name: partial(onnxruntime_cpu.session, graphs[name], threads=measure.threads) for name in first.values()}
    taken = time_sessions({**openers, **(others or {})}, inputs, measure, progress, own).spans
    return Latencies({name: taken[stands.get(name, name)] for name in [*graphs, *(others or {})]})


def time_sessions(
    openers: Mapping[str, Opener],
    common: Mapping[str, np.ndarray],
    measure: Measure,
    progress: Progress,
    own: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Latencies:
    """Time models in one interleaved run, each on those of the ``common`` inputs that it takes, or on its ``own``.

    ``openers``: each is called for every sitting. ``present`` is cut to the columns that a model with fewer modalities has.
    """
    calls = {name: partial(_call, opener, (own or {}).get(name, common)) for name, opener in openers.items()}
    return Latencies(
        sittings(
            calls,
            runs=measure.runs,
            warmup=measure.warmup,
            step=lambda done, total: progress.step("measuring latency", done, total, f"{len(calls)} models in turn"),
        )
    )


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
    once = {name: _call(partial(onnxruntime_cpu.session, graph), inputs) for name, graph in named.items()}
    round_s = sum(float(np.median(times)) for times in spans(once, runs=5, warmup=1).values()) / 1e9
    runs = max(_FEWEST_RUNS, min(measure.runs, int(longest_s / round_s)))
    found = time_graphs(named, inputs, measure.model_copy(update={"runs": runs}), progress)
    return {name: found.ratio(f"graph {name}", "reference") for name in graphs}


def _call(opener: Opener, inputs: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    """A model opened, with what it takes of the inputs."""
    session = opener()
    feed = {
        taken: inputs[taken][:, : info.shape[1]] if taken == "present" else inputs[taken]
        for taken, info in session.inputs.items()
    }
    return partial(session.run, feed)
