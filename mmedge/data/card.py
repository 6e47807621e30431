"""The data card of a run: counts, labels, groups and missing shares of each split. No sample is named."""

from __future__ import annotations

import numpy as np

from mmedge import tasks
from mmedge.data.manifest.splits import SPLITS
from mmedge.data.store.samples import Dataset, Samples
from mmedge.report.provenance import SplitRecord, TargetCardRecord


def card(dataset: Dataset) -> dict[str, SplitRecord]:
    """{split: its card}."""
    return {split: split_card(getattr(dataset, split)) for split in SPLITS}


def split_card(samples: Samples) -> SplitRecord:
    """The card of one split's samples."""
    share = 1 - samples.present.mean(axis=0) if len(samples) else np.zeros(samples.present.shape[1])
    return SplitRecord(
        n=len(samples),
        groups=len(np.unique(samples.groups)),
        missing=dict(zip(samples.inputs, (float(f"{value:.4g}") for value in share.tolist()))),
        targets={name: _targets(samples, name) for name in samples.heads},
    )


def _targets(samples: Samples, name: str) -> TargetCardRecord:
    head, known = samples.heads[name], samples.known(name)
    task, targets = tasks.of(head), samples.targets[name][known]
    if not len(targets):
        return TargetCardRecord(labelled=0)
    if not task.LABELS:
        figures = {"mean": targets.mean(), "least": targets.min(), "most": targets.max()}
        return TargetCardRecord(labelled=len(targets), **{key: float(f"{value:.4g}") for key, value in figures.items()})
    has = targets > 0.5 if task.SEVERAL else targets[:, None] == np.arange(len(head.labels))
    return TargetCardRecord(labelled=len(targets), labels=dict(zip(head.labels, has.sum(axis=0).tolist())))
