"""All that is measured of one network, apart from latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mmedge.contract import Contract
from mmedge.data.outputs import StoredOutputs
from mmedge.data.store.samples import Dataset, Samples
from mmedge.measure.classes import ClassMap
from mmedge.measure.quality import (
    Predict,
    bounds,
    of_head,
    placed_outputs,
    quality,
    rows_of,
    scores_of,
    subset_outputs,
)
from mmedge.report.schema import FiguresRecord, HeadRecord, QualityRecord


def figures(seen: Callable[[str], tuple[Contract, Samples, Predict]]) -> FiguresRecord:
    """Quality on validation and test, whole and of every subset, of a network.

    ``seen(split)``: its contract, the samples as it takes them, and what it gives for them in the data's classes.
    """
    validation = _of_split(*seen("validation"))
    contract, samples, predict = seen("test")
    test = _of_split(contract, samples, predict)
    heads = {
        name: _of_split(of_head(contract, name), _labelled_by(samples, name), predict)
        for name in (contract.heads if len(contract.heads) > 1 else ())
        if samples.known(name).any()
    }
    return FiguresRecord(
        quality_validation=validation.quality,
        subsets_validation=validation.subsets,
        quality=test.quality,
        subsets=test.subsets,
        subsets_ci95=test.subsets_ci95,
        **({"heads": heads} if len(contract.heads) > 1 else {}),
    )


def _of_split(contract: Contract, samples: Samples, predict: Predict) -> HeadRecord:
    figure = quality(contract, predict(samples.present), samples)
    outputs = subset_outputs(contract, samples, predict)
    scores = scores_of(contract, outputs, samples.targets, np.arange(len(samples)))
    intervals = {}
    for name in scores:
        rows, given = outputs[name]
        found = bounds(contract, rows_of(given, rows), rows_of(samples.targets, rows), samples.groups[rows])
        intervals[name] = found.low, found.high
    return HeadRecord(quality=figure, subsets=scores, subsets_ci95=intervals)


def _labelled_by(samples: Samples, head: str) -> Samples:
    """The samples with the targets of one head alone."""
    return replace(samples, targets={head: samples.targets[head]}, heads={head: samples.heads[head]})


def figures_of_stored(
    stored: StoredOutputs,
    contract: Contract,
    dataset: Dataset,
    *,
    classes: ClassMap | None = None,
) -> FiguresRecord:
    """Quality on validation and test of outputs that were computed elsewhere, over the samples that they are of.

    A split of which no labelled sample is among them has no figure; ``absent`` says so, and how many samples are
    lacking.
    """
    found: dict[str, QualityRecord] = {}
    absent: list[str] = []
    for field, samples in (("quality_validation", dataset.validation), ("quality", dataset.test)):
        rows = stored.rows(samples.ids)
        there = np.flatnonzero((rows >= 0) & samples.labelled)
        if not len(there):
            absent.append(f"no quality on the {samples.split} split: the file has no labelled sample of it")
            continue
        if len(there) < samples.labelled.sum():
            absent.append(
                f"quality on the {samples.split} split is of the {len(there)} of {int(samples.labelled.sum())} samples that the file has"
            )
        (head,) = contract.heads  # a file has the outputs of one
        outputs = {head: stored.logits[rows[there]]}
        outputs = classes.spread(outputs) if classes else outputs
        judged = samples.taken(there)
        found[field] = quality(contract, placed_outputs(contract, outputs, outputs, judged.targets), judged)
    return FiguresRecord(**found, subsets={}, subsets_validation={}, absent=absent)
