"""All that is measured of one artifact's graph, apart from latency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmedge.data.samples import Dataset
from mmedge.measure.quality import graph_predictor, quality, subset_scores
from mmedge.recipe import Measure
from mmedge.runtime.sessions import opened
from mmedge.spec import Contract

_THREADS = 2


def figures(
    graph: Path,
    contract: Contract,
    dataset: Dataset,
    measure: Measure,
    seed: int,
    *,
    target: str = "onnxruntime-cpu",
) -> dict[str, Any]:
    """``quality_validation``, ``quality`` and every subset of an exported graph or engine, as the target computes it."""
    run = opened(graph, target, threads=_THREADS)
    out: dict[str, Any] = {}
    for field, split in (("quality_validation", dataset.validation), ("quality", dataset.test)):
        samples = split.only(tuple(contract.modalities))
        predict = graph_predictor(run, contract, samples)
        out[field] = quality(
            contract, predict(samples.present), samples, resamples=measure.bootstrap, seed=seed
        ).record()
        out["subsets" if field == "quality" else "subsets_validation"] = subset_scores(contract, samples, predict)
    return out
