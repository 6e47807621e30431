"""All that is measured of one artifact's graph, apart from latency."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import GRAPH_BACKEND, opened
from mmedge.data.outputs import StoredOutputs
from mmedge.data.store.samples import Dataset, Samples
from mmedge.measure.classes import ClassMap
from mmedge.measure.quality import Predict, Run, graph_predictor, of_head, quality, subset_scores
from mmedge.recipe import Measure
from mmedge.spec import Contract

_THREADS = 2


def figures(
    graph: Path | Run,
    contract: Contract,
    dataset: Dataset,
    measure: Measure,
    seed: int,
    *,
    target: str = GRAPH_BACKEND,
    classes: ClassMap | None = None,
) -> dict[str, Any]:
    """``quality_validation``, ``quality`` and every subset of an exported graph or engine, as the target computes it.

    ``graph``: its file, or what already runs it.
    ``classes``: what the graph's classes mean, where they are not the data's; it is judged by the data's.
    """
    run = opened(graph, target, threads=_THREADS) if isinstance(graph, Path) else graph
    out: dict[str, Any] = {}
    for field, split in (("quality_validation", dataset.validation), ("quality", dataset.test)):
        samples = split.only(tuple(contract.modalities))
        predict = graph_predictor(run, contract, samples)
        if classes:
            predict = _in_the_datas_classes(predict, classes)
        figures = _of_split(contract, samples, predict, measure, seed)
        out[field] = figures["quality"]
        out["subsets" if field == "quality" else "subsets_validation"] = figures["subsets"]
        if field == "quality" and len(contract.heads) > 1:
            out["heads"] = {
                name: _of_split(of_head(contract, name), _labelled_by(samples, name), predict, measure, seed)
                for name in contract.heads
                if samples.known(name).any()
            }
    return out


def _of_split(contract: Contract, samples: Samples, predict: Predict, measure: Measure, seed: int) -> dict[str, Any]:
    """``quality`` and ``subsets`` of the contract's heads."""
    outputs = predict(samples.present)
    figure = quality(contract, outputs, samples, resamples=measure.bootstrap, seed=seed)
    return {"quality": figure.record(), "subsets": subset_scores(contract, samples, predict)}


def _labelled_by(samples: Samples, head: str) -> Samples:
    """The samples with the targets of one head alone."""
    return replace(samples, targets={head: samples.targets[head]}, heads={head: samples.heads[head]})


def _in_the_datas_classes(predict: Predict, classes: ClassMap) -> Predict:
    return lambda present: classes.spread(predict(present))


def figures_of_answers(
    answers: StoredOutputs,
    contract: Contract,
    dataset: Dataset,
    measure: Measure,
    seed: int,
    *,
    classes: ClassMap | None = None,
) -> dict[str, Any]:
    """``quality_validation`` and ``quality`` of outputs that were computed elsewhere, over the samples that they are of.

    A split of which no labelled sample is among them has no figure; ``absent`` says so, and how many samples are
    lacking.
    """
    out: dict[str, Any] = {"subsets": {}, "subsets_validation": {}, "absent": []}
    for field, samples in (("quality_validation", dataset.validation), ("quality", dataset.test)):
        rows = answers.rows(samples.ids)
        there = np.flatnonzero((rows >= 0) & samples.labelled)
        if not len(there):
            out["absent"].append(f"no quality on the {samples.split} split: the file has no labelled sample of it")
            continue
        if len(there) < samples.labelled.sum():
            out["absent"].append(
                f"quality on the {samples.split} split is of the {len(there)} of {int(samples.labelled.sum())} samples that the file has"
            )
        (head,) = contract.heads  # a file has the outputs of one
        outputs = {head: answers.logits[rows[there]]}
        outputs = classes.spread(outputs) if classes else outputs
        out[field] = quality(contract, outputs, samples.taken(there), resamples=measure.bootstrap, seed=seed).record()
    return out
